"""Reading embeddings of one recipe straight from its shards; every sequence is checked.

A reader holds open files and a bounded amount of the segments' small arrays, and sees the segments
that were published when it was opened. Open one in each process; threads may share it.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import (
    BadInput,
    DamagedSegment,
    MissingEmbedding,
    NewerFormat,
    StoreError,
)
from embedstore.store.index import pack_keys
from embedstore.store.index_upkeep import open_index
from embedstore.store.objects import ObjectPath
from embedstore.store.published import REPAIR, Segment
from embedstore.store.ranges import RangeReader
from embedstore.store.recipe import IMPORTED, Recipe
from embedstore.store.shards import ShardReader, Wanted

if TYPE_CHECKING:
    from embedstore.store.store import Store

KEY = re.compile(r"[0-9a-f]{32}")
SURE_BYTES = 64 << 20
"""More than this is only allocated once the shards that hold it were seen to be as large."""
HELD_BYTES = 256 << 20
"""Small arrays a reader keeps in memory; beyond, those of the segment used longest ago go."""


@dataclass(frozen=True, eq=False)
class PackedEmbeddings:
    """Embeddings of several sequences end to end; N sequences, T tokens in all, D wide."""

    tokens: NDArray[Any]
    """float16 or float32 as stored, shape (T, D)."""
    lengths: NDArray[np.int64]
    """Shape (N,)."""

    def split(self) -> list[NDArray[Any]]:
        """One view of shape (L, D) a sequence."""
        return np.split(self.tokens, np.cumsum(self.lengths))[:-1]


@dataclass(frozen=True)
class EmbeddingInfo:
    """What the index knows of one embedding, without reading it."""

    key: str
    segment: str
    row: int
    """Row of the segment's small arrays."""
    shape: tuple[int, int]
    """(L, D)."""
    nbytes: int
    checksum: str
    """crc32c of the stored bytes, 8 hex digits."""


class RecipeReader:
    """The embeddings of one recipe.

    Example: `open_store("runs/mrna.store").recipe("esm2-8m").get("P69905")`
    """

    def __init__(self, store: Store, recipe: Recipe, *, verify: bool = True) -> None:
        self.store, self.recipe, self.verify = store, recipe, verify
        self._row_bytes = recipe.width * np.dtype(recipe.store_dtype).itemsize
        folder = store.recipe_folder(recipe.name)
        self.left_out: list[StoreError]
        """Why each segment was left out that could not be read; none of its keys is stored."""
        self._index, self.left_out = open_index(
            folder,
            store.segment_names(recipe.name),
            lambda name: Segment(folder / "segments" / name, recipe),
        )
        self._surely_there: set[int] = set()
        place = folder / "segments"
        in_bucket = isinstance(place, ObjectPath)
        if isinstance(place, Path) and os.path.lexists(place) and not place.is_dir():
            what = f"recipes/{recipe.name}/segments is no folder."
            self.left_out.append(DamagedSegment(what, REPAIR))
        reading = RangeReader if in_bucket else ShardReader
        self._shards: RangeReader | ShardReader = reading(verify=verify)
        self._held: OrderedDict[int, int] = OrderedDict()
        self._held_bytes = 0
        self._lock = Lock()

    @property
    def name(self) -> str:
        """Folder name of the recipe, e.g. `esm2-8m-3f9c2a1b7d`."""
        return self.recipe.name

    @cached_property
    def segments(self) -> list[Segment]:
        """The segments, sorted by name; each is read when first used."""
        folder = self.store.recipe_folder(self.name) / "segments"
        return [Segment(folder / name, self.recipe) for name in self._index.names]

    def __len__(self) -> int:
        return len(self._index)

    def keys(self) -> list[str]:
        """Every stored key, sorted."""
        digits = self._index.sorted_keys().tobytes().hex()
        return [digits[at : at + 32] for at in range(0, len(digits), 32)]

    def check_whole(self) -> None:
        """Raise where a segment was left out, so that what is absent may only be unreadable.

        Raises
        ------
        DamagedSegment, NewerFormat
        """
        if self.left_out:
            raise self._left_out_error(f"{self.name} cannot be read whole")

    def has(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which keys are stored in segments that can be read: bool, shape (N,).

        Raises
        ------
        BadInput
            One of them is no key.
        """
        segment, _, _ = self._index.find(_packed(keys))
        return segment >= 0

    def info(self, key: str) -> EmbeddingInfo:
        """Shape, bytes and checksum of an embedding, without reading it.

        Raises
        ------
        MissingEmbedding
            The key was never written.
        DamagedSegment
        """
        found = self._find([key])
        segment, row = self._segment(int(found.segments[0])), int(found.rows[0])
        shape = (int(found.lengths[0]), self.recipe.width)
        return EmbeddingInfo(
            key=key,
            segment=segment.name,
            row=row,
            shape=shape,
            nbytes=shape[0] * self._row_bytes,
            checksum=f"{int(segment.crc32c[row]):08x}",
        )

    def lengths(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Token rows of each embedding, from the index alone: int64, shape (N,).

        Raises
        ------
        MissingEmbedding, DamagedSegment
        """
        return self._find(keys).lengths.astype(np.int64)

    def locate(self, keys: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Where embeddings lie, from the index alone: segment and row in it, int32, shape (N,).

        Sorted by segment and row they are in the order of the disk.

        Raises
        ------
        MissingEmbedding
        """
        found = self._find(keys)
        return found.segments, found.rows

    def get(self, key_or_id: str, collection: str | None = None) -> NDArray[Any]:
        """One per-token embedding.

        Parameters
        ----------
        key_or_id : a key (32 hex digits), or the id of a record in the store's collections
        collection : where to look the id up; needed only if collections disagree on it

        Returns
        -------
        float16 or float32 as stored, shape (L, D); row i is residue, nucleotide or token i

        Raises
        ------
        MissingRecord, MissingEmbedding, DamagedSegment
        """
        key = key_or_id
        if collection is not None or not KEY.fullmatch(key_or_id):
            key = self.store.find_key(key_or_id, self.recipe.view, collection)
        return self.batch([key]).tokens

    def batch(self, keys: Sequence[str]) -> PackedEmbeddings:
        """Embeddings of many keys, packed end to end in the order asked.

        Raises
        ------
        MissingEmbedding
            A key was never written.
        DamagedSegment
            Stored bytes do not match their checksum.
        """
        found = self._find(keys)
        lengths = found.lengths.astype(np.int64)
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        if total * self._row_bytes > SURE_BYTES:
            self._check_there(found)
        out = np.empty((total, self.recipe.width), self.recipe.store_dtype)
        self._read_found(found, out, ends - lengths)
        return PackedEmbeddings(out, lengths)

    def read_into(self, keys: Sequence[str], out: NDArray[Any], at: NDArray[np.int64]) -> None:
        """Read embeddings into an array of the stored dtype, shape (T, D), from given rows on.

        Shards are read front to back, whatever the order of the keys.

        Raises
        ------
        MissingEmbedding, DamagedSegment
        ValueError
            The array has another dtype or width, is not C-contiguous, or is too short.
        """
        found = self._find(keys)
        whole = out.ndim == 2 and out.shape[1] == self.recipe.width and out.flags.c_contiguous
        if not whole or out.dtype != self.recipe.store_dtype:
            raise ValueError(
                f"wanted C-contiguous {self.recipe.store_dtype}, shape (T, {self.recipe.width}); "
                f"got {out.dtype} of shape {out.shape}"
            )
        if len(keys) and (at.min() < 0 or (at + found.lengths).max() > len(out)):
            raise ValueError(f"some embeddings lie outside the {len(out)} rows")
        self._read_found(found, out, at)

    def means(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Average over tokens of each embedding: float32, shape (N, D).

        Raises
        ------
        MissingEmbedding, DamagedSegment
        """
        found = self._find(keys)
        out = np.empty((len(keys), self.recipe.width), np.float32)
        for mine, segment in self._by_segment(found):
            out[mine] = segment.mean[found.rows[mine]]
        return out

    def describe(self) -> dict[str, Any]:
        """Counts and bytes of the recipe, from the index alone."""
        return {
            "recipe": self.name,
            "backbone": self.recipe.backbone,
            "view": self.recipe.view,
            "width": self.recipe.width,
            "keys": len(self),
            "tokens": self._index.tokens,
            "segments": len(self._index.names),
            "bytes": self._index.bytes,
            "left_out": len(self.left_out),
        }

    def _find(self, keys: Sequence[str]) -> _Found:
        found = _Found(*self._index.find(_packed(keys)))
        absent = int(np.count_nonzero(found.segments < 0))
        if absent:
            more = f" and {absent - 1} more" if absent > 1 else ""
            absence = f"no embedding of key {keys[int(found.segments.argmin())]}{more}"
            if self.left_out:
                raise self._left_out_error(f"{self.name} has {absence} that can be read")
            raise MissingEmbedding(
                f"{self.name} has {absence}.",
                "Run `embedstore import` with a file that has it."
                if (self.recipe.weights or "").startswith(IMPORTED)
                else f"Run `embedstore build` with --backbone {self.recipe.backbone}.",
            )
        return found

    def _check_there(self, found: _Found) -> None:
        """Raise where shards are not as large as is to be read of them; each is looked at once."""
        for mine, segment in self._by_segment(found):
            if (found.lengths[mine] > segment.document.tokens).any():
                raise self._disagrees(segment)
            number = int(found.segments[mine[0]])
            if number not in self._surely_there:
                segment.check_shard()
                self._surely_there.add(number)

    def _disagrees(self, segment: Segment) -> DamagedSegment:
        return DamagedSegment(
            f"The index of {self.name} does not agree with segment {segment.name}.",
            f"Remove recipes/{self.name}/index: it is made anew from the segments.",
        )

    def _left_out_error(self, problem: str) -> StoreError:
        """An error for what may stand in a segment that was left out; names the first of them."""
        first, count = self.left_out[0], len(self.left_out)
        segments = "1 segment is left out" if count == 1 else f"{count} segments are left out"
        problem = f"{problem}: {segments}. {first.problem}"
        if all(isinstance(each, NewerFormat) for each in self.left_out):
            return NewerFormat(problem, first.fix)
        return DamagedSegment(problem, REPAIR)

    def _by_segment(self, found: _Found) -> Iterator[tuple[NDArray[np.int64], Segment]]:
        """For each segment: which of the keys it holds, and the segment."""
        order = found.segments.argsort(kind="stable")
        numbers = found.segments[order]
        cuts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        ends = [0, *cuts.tolist(), len(order)] if len(order) else []
        for first, last in pairwise(ends):
            yield order[first:last], self._segment(int(numbers[first]))

    def _read_found(self, found: _Found, out: NDArray[Any], at: NDArray[np.int64]) -> None:
        if isinstance(self._shards, RangeReader):
            self._shards.fetch([self._segment(int(n)) for n in np.unique(found.segments)])
        count = len(found.rows)
        number, start, checksums = (np.empty(count, np.int64) for _ in range(3))
        segments: list[Segment] = []
        for mine, segment in self._by_segment(found):
            rows = found.rows[mine]
            if (segment.length[rows] != found.lengths[mine]).any():
                raise self._disagrees(segment)
            number[mine] = len(segments)
            start[mine] = segment.start[rows]
            checksums[mine] = segment.crc32c[rows]
            segments.append(segment)
        wanted = Wanted(
            segments=segments,
            segment=number,
            rows=found.rows.astype(np.int64),
            offsets=start * self._row_bytes,
            sizes=found.lengths * np.int64(self._row_bytes),
            checksums=checksums,
            to=at * self._row_bytes,
        )
        self._shards.read(wanted, out.reshape(-1).view(np.uint8))

    def _segment(self, number: int) -> Segment:
        """A segment, noted as just used; others are let go where too much is held."""
        segment = self.segments[number]
        with self._lock:
            held = segment.held_bytes
            if self._held.get(number) == held:
                self._held.move_to_end(number)
                return segment
            self._held_bytes += held - self._held.pop(number, 0)
            self._held[number] = held
            while self._held_bytes > HELD_BYTES and len(self._held) > 1:
                oldest, size = self._held.popitem(last=False)
                self._held_bytes -= size
                self.segments[oldest].forget()
        return segment


@dataclass(frozen=True, eq=False)
class _Found:
    """Where keys are: three int32 of shape (N,)."""

    segments: NDArray[np.int32]
    rows: NDArray[np.int32]
    lengths: NDArray[np.int32]


def _packed(keys: Sequence[str]) -> NDArray[np.uint8]:
    try:
        return pack_keys(keys)
    except ValueError:
        wrong = next(key for key in keys if not KEY.fullmatch(key))
        raise BadInput(f"{wrong!r} is not a key.", "A key has 32 hex digits.") from None
