"""Stored features for training: a recipe and keys in, packed or aligned arrays in memory out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.dogma import view_of
from embedstore.positions import codon_means, spread
from embedstore.records import Record
from embedstore.store import RecipeReader, key_of


@dataclass(frozen=True, eq=False)
class Features:
    """Per-token features of N rows that share K <= N distinct embeddings; T tokens, D wide."""

    tokens: NDArray[Any]
    """float16 or float32 as stored, shape (T, D): the distinct embeddings end to end."""
    starts: NDArray[np.int64]
    """Shape (K,): first token of each distinct embedding."""
    lengths: NDArray[np.int64]
    """Shape (K,): tokens of each distinct embedding."""
    rows: NDArray[np.int64]
    """Shape (N,): which distinct embedding each asked key has."""


def load_features(reader: RecipeReader, keys: Sequence[str]) -> Features:
    """Read the embeddings of many keys into memory, each distinct one once.

    Raises
    ------
    MissingEmbedding
        A key was never written.
    """
    place: dict[str, int] = {}
    rows = np.array([place.setdefault(key, len(place)) for key in keys], np.int64)
    packed = reader.batch(list(place))
    starts = np.cumsum(packed.lengths) - packed.lengths
    return Features(packed.tokens, starts, packed.lengths, rows)


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
