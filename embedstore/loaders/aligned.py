"""One record's stored features on the record's own axis: nucleotides or codons."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from embedstore.positions import codon_means, spread
from embedstore.records import Record
from embedstore.store import RecipeReader, key_of


def load_aligned(
    reader: RecipeReader, record: Record, unit: Literal["nucleotide", "codon"]
) -> NDArray[Any]:
    """One record's features on its own nucleotides or codons, whatever the backbone's tokens are.

    So features of DNA, RNA and protein models of one coding sequence stand on one axis.

    Parameters
    ----------
    unit : of the rows; a codon's row is the average over its three nucleotides, and the codons
        are those of the record's coding region, or of the whole record where it has none

    Returns
    -------
    stored dtype, shape (L, D), for nucleotides; float32, shape (C, D), for codons. NaN where the
    backbone has no token: a protein model has none on the stop codon and none in the UTRs.

    Raises
    ------
    MissingEmbedding
        The record was never embedded by this recipe.
    ValueError
        Tokens that overlap have no one row a position; the record has no whole number of codons.
    Unreadable
        The record has no such view.
    """
    from embedstore.backbones.load import tokenizer_of
    from embedstore.backbones.specs import find_spec

    view = record.view(reader.recipe.view)
    tokens = reader.batch([key_of(view.text)]).tokens
    offset, width = tokenizer_of(find_spec(reader.recipe.backbone)).spans(view.text)
    rows = spread(tokens, *view.spans_in_record(offset, width), len(record.sequence))
    if unit == "nucleotide":
        return rows
    region = record.codons()
    if region is None:
        raise ValueError(f"record {record.id!r} has no whole number of codons")
    return codon_means(rows[slice(*region)])
