"""Coding regions in requests: what a client says of a sequence in, a record read that way out."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from embedstore.coding_regions import with_coding, with_orf
from embedstore.dogma import WHOLE, Coding
from embedstore.errors import BadInput
from embedstore.genetic_codes import check_code
from embedstore.records import Record


class CodingRegion(BaseModel):
    """Where a transcript codes for its protein."""

    model_config = ConfigDict(extra="forbid")

    start: int = Field(
        ge=0, strict=True, description="First nt of the start codon, counted from 0."
    )
    stop: int = Field(
        ge=0, strict=True, description="The nt behind the stop codon, counted from 0."
    )


class CodingRules(BaseModel):
    """How DNA and mRNA are translated; what a build takes as options."""

    genetic_code: int | None = Field(
        None,
        strict=True,
        description="NCBI's number (11: bacteria), with all its start codons. Default: the "
        "standard code, AUG alone.",
    )
    orf: Literal["longest"] | None = Field(
        None, description="Take the longest open reading frame as coding region."
    )
    allow_inner_stop: bool = Field(False, description="Read stop codons inside as X.")
    selenocysteine: bool = Field(False, description="Read an inner UGA that is a stop as U.")


def give_coding(
    record: Record, rules: CodingRules, region: CodingRegion | None, where: str
) -> Record:
    """The record, read as a client asks.

    Parameters
    ----------
    where : how an error names the sequence

    Raises
    ------
    BadInput
        Positions outside of the sequence, an unknown code, or a protein that is to be translated.
    """
    if rules.genetic_code is not None:
        check_code(rules.genetic_code, "genetic_code")
    if region is not None and rules.orf is not None:
        raise BadInput("orf and coding_region both say where the region is.", "Send one of them.")
    coding = Coding(
        code=rules.genetic_code,
        inner_stops=rules.allow_inner_stop,
        selenocysteine=rules.selenocysteine,
    )
    if record.molecule == "protein":
        if coding != WHOLE or region is not None or rules.orf is not None:
            raise BadInput(
                f"{where} is a protein, which is not translated.",
                "Leave out coding_region, orf, genetic_code, allow_inner_stop and selenocysteine, "
                "or send the molecule: mrna or dna.",
            )
        return record
    if rules.orf is not None:
        coding = with_orf(record.sequence, coding)
    if region is not None:
        if not region.start < region.stop <= len(record.sequence):
            raise BadInput(
                f"{where}: coding_region {region.start} to {region.stop} is no part of its "
                f"{len(record.sequence)} nt.",
                "Count from 0; stop is the nt behind the stop codon.",
            )
        coding = Coding(
            region.start, region.stop, coding.code, coding.inner_stops, coding.selenocysteine
        )
    return with_coding(record, coding)
