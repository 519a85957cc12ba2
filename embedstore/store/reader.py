"""Reading embeddings of one recipe straight from its shards; every sequence is checked.

Nothing is cached but open files and the small arrays; a reader sees the segments that were
published when it was opened. Open one in each process; threads may share it.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.errors import BadInput, DamagedSegment, MissingEmbedding, NewerFormat
from embedstore.store.index import KeyIndex, pack_keys
from embedstore.store.recipe import Recipe
from embedstore.store.segment import SEGMENT_FORMAT, TOKENS_SHARD

if TYPE_CHECKING:
    from embedstore.store.store import Store

OPEN_FILES = 128
KEY = re.compile(r"[0-9a-f]{32}")
REPAIR = "Move the segment's folder away and build again: only its sequences are embedded anew."


@dataclass(frozen=True, eq=False)
class PackedEmbeddings:
    """Embeddings of several sequences end to end; N sequences, T tokens in all, D wide."""

    tokens: NDArray[Any]
    """float16 or float32 as stored, shape (T, D)."""
    lengths: NDArray[np.int64]
    """Shape (N,)."""

    def split(self) -> list[NDArray[Any]]:
        """One view of shape (L, D) a sequence."""
        return np.split(self.tokens, np.cumsum(self.lengths)[:-1])


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


class Segment:
    """One published segment: its document and small arrays, read once and checked."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.name, self.recipe = folder, folder.name, recipe
        self.document = self._read_document()

    @cached_property
    def keys(self) -> NDArray[np.uint8]:
        """uint8, shape (N, 16)."""
        return self._array("keys", np.uint8, (16,))

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """int64, shape (N,): first row in `tokens`."""
        return self._array("start", np.int64)

    @cached_property
    def length(self) -> NDArray[np.int64]:
        """int64, shape (N,): rows in `tokens`."""
        return self._array("length", np.int64)

    @cached_property
    def crc32c(self) -> NDArray[np.uint32]:
        """uint32, shape (N,): checksum of each sequence's rows."""
        return self._array("crc32c", np.uint32)

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """float32, shape (N, D)."""
        return self._array("mean", np.float32, (self.recipe.width,))

    @cached_property
    def cls(self) -> NDArray[np.float32] | None:
        """float32, shape (N, D), where the backbone has one."""
        if "cls/c/0/0" not in self.document["files"]:
            return None
        return self._array("cls", np.float32, (self.recipe.width,))

    def damaged(self, what: str) -> DamagedSegment:
        """The error of this segment, naming what is wrong."""
        return DamagedSegment(f"Segment {self.name} of {self.recipe.name}: {what}.", REPAIR)

    def _array(self, name: str, dtype: Any, tail: tuple[int, ...] = ()) -> NDArray[Any]:
        file = f"{name}/c" + "/0" * (1 + len(tail))
        content = self._read(file)
        entry = self.document["files"].get(file)
        if entry is None or f"{crc32c(content):08x}" != entry["crc32c"]:
            raise self.damaged(f"{file} does not match its checksum")
        array = np.frombuffer(content, np.dtype(dtype).newbyteorder("<"))
        return array.astype(dtype, copy=False).reshape(self.document["keys"], *tail)

    def _read_document(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads(self._read("segment.json"))
            version = document["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(f"segment.json is unreadable ({error!r})") from error
        if version > SEGMENT_FORMAT:
            raise NewerFormat(
                f"Segment {self.name} has format {version}; this version reads {SEGMENT_FORMAT}.",
                "Install a newer embedstore.",
            )
        if document["recipe"] != self.recipe.name:
            raise self.damaged(f"it belongs to {document['recipe']}")
        return document

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise self.damaged(f"{name} cannot be read ({error.strerror})") from error


class _Shard:
    """An open shard file; closed when the last user lets go of it."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


class RecipeReader:
    """The embeddings of one recipe.

    Example: `open_store("runs/mrna.store").recipe("esm2-8m").get("P69905")`
    """

    def __init__(self, store: Store, recipe: Recipe, *, verify: bool = True) -> None:
        self.store, self.recipe, self.verify = store, recipe, verify
        self.segments = [Segment(path, recipe) for path in store.segment_folders(recipe.name)]
        self._index = KeyIndex([segment.keys for segment in self.segments])
        self._files: OrderedDict[str, _Shard] = OrderedDict()
        self._lock = Lock()

    @property
    def name(self) -> str:
        """Folder name of the recipe, e.g. `esm2-8m-3f9c2a1b7d`."""
        return self.recipe.name

    def __len__(self) -> int:
        return len(self._index)

    def keys(self) -> list[str]:
        """Every stored key, sorted."""
        return [bytes(key).hex() for key in self._index.sorted_keys()]

    def has(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which keys are stored: bool, shape (N,)."""
        segment, _ = self._index.find(pack_keys(keys))
        return segment >= 0

    def info(self, key: str) -> EmbeddingInfo:
        """Shape, bytes and checksum of an embedding, from the index alone.

        Raises
        ------
        MissingEmbedding
            The key was never written.
        """
        segments, rows = self._find([key])
        segment, row = self.segments[segments[0]], int(rows[0])
        shape = (int(segment.length[row]), self.recipe.width)
        return EmbeddingInfo(
            key=key,
            segment=segment.name,
            row=row,
            shape=shape,
            nbytes=shape[0] * self._row_bytes,
            checksum=f"{int(segment.crc32c[row]):08x}",
        )

    def lengths(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Token rows of each embedding: int64, shape (N,); reads no embedding.

        Raises
        ------
        MissingEmbedding
        """
        out = np.empty(len(keys), np.int64)
        for mine, rows, segment in self._by_segment(keys):
            out[mine] = segment.length[rows]
        return out

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
        lengths = self.lengths(keys)
        out = np.empty((int(lengths.sum()), self.recipe.width), self.recipe.store_dtype)
        self.read_into(keys, out, np.cumsum(lengths) - lengths)
        return PackedEmbeddings(out, lengths)

    def read_into(self, keys: Sequence[str], out: NDArray[Any], at: NDArray[np.int64]) -> None:
        """Read embeddings into an array of the stored dtype, shape (T, D), from given rows on.

        Shards are read front to back, whatever the order of the keys.
        """
        for mine, rows, segment in self._by_segment(keys):
            front_to_back = np.argsort(segment.start[rows], kind="stable")
            for item, row in zip(mine[front_to_back], rows[front_to_back], strict=True):
                length = int(segment.length[row])
                part = out[at[item] : at[item] + length]
                self._read_rows(segment, int(segment.start[row]), part)
                if self.verify and crc32c(part) != segment.crc32c[row]:
                    key = bytes(segment.keys[row]).hex()
                    raise segment.damaged(f"the embedding of {key} does not match its checksum")

    def means(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """Average over tokens of each embedding: float32, shape (N, D).

        Raises
        ------
        MissingEmbedding
        """
        out = np.empty((len(keys), self.recipe.width), np.float32)
        for mine, rows, segment in self._by_segment(keys):
            out[mine] = segment.mean[rows]
        return out

    def describe(self) -> dict[str, Any]:
        """Counts and bytes of the recipe."""
        documents = [segment.document for segment in self.segments]
        return {
            "recipe": self.name,
            "backbone": self.recipe.backbone,
            "view": self.recipe.view,
            "width": self.recipe.width,
            "keys": len(self),
            "tokens": sum(document["tokens"] for document in documents),
            "segments": len(documents),
            "bytes": sum(document["bytes"] for document in documents),
        }

    @property
    def _row_bytes(self) -> int:
        return self.recipe.width * np.dtype(self.recipe.store_dtype).itemsize

    def _find(self, keys: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        wrong = next((key for key in keys if not KEY.fullmatch(key)), None)
        if wrong is not None:
            raise BadInput(f"{wrong!r} is not a key.", "A key has 32 hex digits.")
        segments, rows = self._index.find(pack_keys(keys))
        if (segments < 0).any():
            absent = int((segments < 0).sum())
            more = f" and {absent - 1} more" if absent > 1 else ""
            raise MissingEmbedding(
                f"{self.name} has no embedding of key {keys[int(segments.argmin())]}{more}.",
                f"Run `embedstore build` with --backbone {self.recipe.backbone}.",
            )
        return segments, rows

    def _by_segment(
        self, keys: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32], Segment]]:
        """For each segment: which of the keys it holds, their rows in it, and the segment."""
        segments, rows = self._find(keys)
        for number in np.unique(segments):
            mine = np.flatnonzero(segments == number)
            yield mine, rows[mine], self.segments[number]

    def _read_rows(self, segment: Segment, first: int, out: NDArray[Any]) -> None:
        shard = self._open(segment)
        left, offset = out.data.cast("B"), first * self._row_bytes
        while left:
            got = os.preadv(shard.handle, [left], offset)
            if got == 0:
                raise segment.damaged(f"{TOKENS_SHARD} ends too early")
            left, offset = left[got:], offset + got

    def _open(self, segment: Segment) -> _Shard:
        with self._lock:
            shard = self._files.get(segment.name)
            if shard is None:
                try:
                    shard = _Shard(segment.folder / TOKENS_SHARD)
                except OSError as error:
                    what = f"{TOKENS_SHARD} cannot be opened ({error.strerror})"
                    raise segment.damaged(what) from error
                self._files[segment.name] = shard
                if len(self._files) > OPEN_FILES:
                    self._files.popitem(last=False)
            self._files.move_to_end(segment.name)
            return shard
