"""Stored features for training: a recipe and keys in, one packed array in memory out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.store import RecipeReader


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
