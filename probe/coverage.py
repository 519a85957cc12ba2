"""Which records of a collection have a stored embedding: a reader in, rows out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedstore import Collection
from embedstore.loaders import EmbeddingReader, JoinedReader


@dataclass(frozen=True, eq=False)
class Coverage:
    """What a recipe holds of a collection of N records."""

    keys: list[str | None]
    """Key of the view that the recipe reads, or of the join; None where there is no such view."""
    stored: NDArray[np.bool_]
    """Shape (N,): the key is there, and so is its embedding."""

    def keys_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Keys of rows that are stored, in the order asked."""
        keys = [self.keys[row] for row in rows.tolist()]
        assert self.stored[rows].all(), "only stored rows have an embedding to read"
        return [key for key in keys if key is not None]


def coverage(reader: EmbeddingReader, collection: Collection) -> Coverage:
    """What is stored of a collection under one recipe, or under all of a join of this collection.

    Reads no embedding.
    """
    if isinstance(reader, JoinedReader):
        keys = reader.row_keys
    else:
        keys = collection.keys(reader.recipe.view)
    stored = np.zeros(len(keys), np.bool_)
    rows = [row for row, key in enumerate(keys) if key is not None]
    stored[rows] = reader.has([key for key in keys if key is not None])
    return Coverage(keys, stored)
