"""What a build's failures look like, taken together: records in, sentences with the way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from embedstore.dogma import FRAME, WHOLE, Coding, Unreadable, view_of
from embedstore.genetic_codes import genetic_code
from embedstore.orf import longest_orf
from embedstore.records import Record
from embedstore.store.failures import Failure

SHARE, LEAST = 0.2, 5
"""Records that must fail alike, as a part of all and in number: fewer do so by chance."""
ORF_NT = 30
"""A shorter open reading frame stands in most random sequences."""
LOOKED_AT = 1_000
"""Failed records, the first ones: enough to tell what most of them are."""
BACTERIAL = 11
READS_UGA = 4
"""The code of mycoplasmas and many mitochondria, where UGA is tryptophan."""


def plan_hints(records: Sequence[Record], failures: Iterable[Failure]) -> list[str]:
    """The hints of a build, from what its plan leaves out."""
    return hints(records, [each.id for each in failures if each.reason in FRAME])


def hints(records: Sequence[Record], failed: Iterable[str]) -> list[str]:
    """What would bring in the records that are no reading frames, one sentence a cause.

    Parameters
    ----------
    records : all of an input
    failed : ids of those that a view refused as no reading frame
    """
    ids = set(failed)
    if not ids:
        return []
    mine = [row for row in records if row.id in ids and row.molecule != "protein"]
    some = [(row, reason) for row in mine[:LOOKED_AT] if (reason := _reason(row))]
    bacterial = [
        row.sequence[at : at + 3].replace("T", "U")
        for row, reason in some
        if reason == "no-start-codon"
        and (row.coding or WHOLE).code is None
        and _reads(row, BACTERIAL)
        for at, _ in [(row.coding or WHOLE).region(len(row.sequence))]
    ]
    uga = [row for row, reason in some if reason == "inner-stop-codon" and _uga_alone(row)]
    told = []
    if bacterial and len(bacterial) >= SHARE * len(some):
        starts = ", ".join(sorted(set(bacterial)))
        told.append(
            f"{_count(len(bacterial), some, mine)} are reading frames from {starts} on: start "
            f"codons of bacteria (`--genetic-code {BACTERIAL}`), and some of mitochondria (2 to 5)."
        )
    if uga:
        told.append(
            f"{_count(len(uga), some, mine)} have inner stops that are all UGA: a residue in some "
            f"genetic codes (`--genetic-code {READS_UGA}`, or 2 for vertebrate mitochondria), or "
            "selenocysteine (`--selenocysteine-column`); `--allow-inner-stop` reads X."
        )
    whole = [
        row
        for row, reason in some
        if reason != "inner-stop-codon" and not _has_region(row) and not _reads(row, BACTERIAL)
    ]
    nucleotides = sum(row.molecule != "protein" for row in records)
    all_failed = len(whole) * len(mine) / max(len(some), 1)
    if len(whole) >= min(LEAST, nucleotides) and all_failed >= SHARE * nucleotides:
        inside = sum(_has_orf_inside(row) for row in whole)
        if 2 * inside > len(whole):
            told.append(
                f"These look like transcripts with UTRs: {_count(inside, some, mine)} have a "
                "longer open reading frame inside. Name the columns of its position with "
                "`--cds-columns START,END`, or take the longest with `--orf longest`."
            )
    return told


def _count(number: int, some: Sequence[object], all_failed: Sequence[object]) -> str:
    """A number of records, of those that failed; of a part, where not all were looked at."""
    if len(all_failed) > LOOKED_AT:
        return f"{number} of the first {LOOKED_AT} records left out"
    return f"{number} of {len(all_failed)} records left out"


def _reason(row: Record) -> str | None:
    """Which rule of a reading frame it breaks; None: it is one, or has no region at all."""
    try:
        row.view("cds")
    except Unreadable as error:
        return error.reason if error.reason in FRAME else None
    return None


def _has_region(row: Record) -> bool:
    return row.coding is not None and row.coding.start is not None


def _reads(row: Record, code: int) -> bool:
    """Whether the record is a reading frame by another code."""
    own = row.coding or WHOLE
    other = Coding(own.start, own.stop, code, own.inner_stops, own.selenocysteine, own.absent)
    try:
        view_of(row.sequence, row.molecule, "cds", other)
    except Unreadable:
        return False
    return True


def _uga_alone(row: Record) -> bool:
    """Whether the record would be a reading frame if an inner UGA were a residue."""
    own = row.coding or WHOLE
    other = Coding(own.start, own.stop, own.code, selenocysteine=True)
    try:
        view_of(row.sequence, row.molecule, "cds", other)
    except Unreadable:
        return False
    return True


def _has_orf_inside(row: Record) -> bool:
    coding = row.coding or WHOLE
    if genetic_code(coding.code).both:
        return False
    found = longest_orf(row.sequence.replace("T", "U"), coding)
    return found is not None and found[1] - found[0] >= ORF_NT
