"""What an export writes: a store and a recipe in, records with keys and arrays in batches out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput, MissingCollection, MissingEmbedding
from embedstore.records import Record
from embedstore.store.reader import RecipeReader
from embedstore.store.store import Store

BATCH_BYTES = 8 << 20
"""Embeddings held in memory at once; a longer sequence is a batch of its own."""


@dataclass(frozen=True, slots=True)
class Row:
    """A record and the key of its embedding."""

    record: Record
    key: str


def embedded_rows(
    store: Store, reader: RecipeReader, collection: str | None
) -> tuple[list[Row], int]:
    """Records that have an embedding, in their order, and how many have none.

    Parameters
    ----------
    collection : one collection; None: all of the store, records they share taken once

    Raises
    ------
    MissingCollection
        There is no such collection, or none at all.
    MissingEmbedding
        No record has an embedding.
    BadInput
        Two collections give one id to different sequences.
    """
    names = store.collections() if collection is None else [collection]
    if not names:
        raise MissingCollection(
            "The store has no collection, so its embeddings have no ids.",
            "Build an input into it; embeddings that are stored already are kept.",
        )
    found: dict[str, tuple[Record, str | None]] = {}
    for name in names:
        each = store.collection(name)
        for record, key in zip(each.records(), each.keys(reader.recipe.view), strict=True):
            _, known = found.setdefault(record.id, (record, key))
            if known != key:
                raise BadInput(
                    f"{record.id!r} stands for different sequences in {', '.join(names)}.",
                    "Say which with --collection.",
                )
    rows = [Row(record, key) for record, key in found.values() if key is not None]
    there = reader.has([row.key for row in rows])
    rows = [row for row, has in zip(rows, there, strict=True) if has]
    if not rows:
        reader.check_whole()
        raise MissingEmbedding(
            f"None of the {len(found)} records has an embedding by {reader.name}.",
            f"Run `embedstore build` with --backbone {reader.recipe.backbone}.",
        )
    return rows, len(found) - len(rows)


def token_batches(
    reader: RecipeReader, keys: Sequence[str]
) -> Iterator[tuple[Sequence[str], list[NDArray[Any]]]]:
    """Keys and their embeddings, each (L, D) in the stored dtype, a bounded amount at a time."""
    row_bytes = reader.recipe.width * np.dtype(reader.recipe.store_dtype).itemsize
    for part in _parts(keys, reader.lengths(keys) * row_bytes):
        yield part, reader.batch(part).split()


def mean_batches(
    reader: RecipeReader, keys: Sequence[str]
) -> Iterator[tuple[Sequence[str], NDArray[np.float32]]]:
    """Keys and their averages, float32 of shape (n, D), a bounded amount at a time."""
    sizes = np.full(len(keys), reader.recipe.width * 4, np.int64)
    for part in _parts(keys, sizes):
        yield part, reader.means(part)


def _parts(keys: Sequence[str], sizes: NDArray[np.int64]) -> Iterator[Sequence[str]]:
    """Runs of keys that come to at most `BATCH_BYTES`, or of one key."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(keys):
        before = ends[first] - sizes[first]
        last = int(np.searchsorted(ends, before + BATCH_BYTES, side="right"))
        last = max(last, first + 1)
        yield keys[first:last]
        first = last
