"""One record's stored features on the record's own axis: nucleotides or codons."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

from embedstore.dogma import view_of
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
    unit : of the rows; a codon's row is the average over its three nucleotides

    Returns
    -------
    stored dtype, shape (L, D), for nucleotides; float32, shape (L / 3, D), for codons.
    NaN where the backbone has no token: a protein model has none on the stop codon.

    Raises
    ------
    MissingEmbedding
        The record was never embedded by this recipe.
    ValueError
        Tokens that overlap have no one row a position; L is no whole number of codons.
    Unreadable
        The record has no such view.
    """
    from embedstore.backbones.load import tokenizer_of
    from embedstore.backbones.specs import find_spec

    view = view_of(record.sequence, record.molecule, reader.recipe.view)
    tokens = reader.batch([key_of(view.text)]).tokens
    offset, width = tokenizer_of(find_spec(reader.recipe.backbone)).spans(view.text)
    rows = spread(tokens, offset * view.step, width * view.step, len(record.sequence))
    return rows if unit == "nucleotide" else codon_means(rows)
