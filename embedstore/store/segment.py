"""Writing a segment: embedded batches in, one immutable published folder out.

A segment is a plain Zarr v3 group and `segment.json`; `drafts` tells where it lies meanwhile.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from google_crc32c import extend as extend_crc32c
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.backbones.backbone import Embedded
from embedstore.store import zarr_files
from embedstore.store.drafts import make_draft, publish_segment
from embedstore.store.files import make_folder_in, writing_to
from embedstore.store.objects import Place
from embedstore.store.recipe import Recipe
from embedstore.store.segment_document import CHUNKS, DOCUMENT, GROUP, write_document
from embedstore.store.segment_document import TOKENS_SHARD as TOKENS_SHARD  # for those who read

SEGMENT_NAME = re.compile(r"[0-9a-f]{32}")


def segment_name(keys: Sequence[str]) -> str:
    """Digest of the keys in their order: 32 hex digits."""
    return hashlib.blake2b(bytes.fromhex("".join(keys)), digest_size=16).hexdigest()


class SegmentWriter:
    """Appends embeddings to a draft; `publish` makes them visible, leaving without it drops them.

    Use as a context manager.
    """

    def __init__(self, recipe_folder: Place, recipe: Recipe) -> None:
        self.recipe_folder = recipe_folder
        self.recipe = recipe
        self.folder = make_draft(recipe_folder)
        self._keys: list[str] = []
        self._lengths: list[int] = []
        self._checksums: list[int] = []
        self._means: list[NDArray[np.float32]] = []
        self._cls: list[NDArray[np.float32]] = []
        self._files: dict[str, dict[str, Any]] = {}
        self._documents: dict[str, bytes] = {}
        self._shard_crc = 0
        self._shard_bytes = 0
        with writing_to(self.folder):
            self._shard = make_folder_in(self.folder, TOKENS_SHARD).open("wb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything held; what was not published is removed."""
        self._shard.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # published ones have moved away
        self._means, self._cls = [], []

    def append(self, keys: Sequence[str], embedded: Embedded) -> None:
        """Write one batch behind the last; sequences that are not finite are left out.

        Parameters
        ----------
        keys : one per sequence of the batch, in its order

        Raises
        ------
        WriteFailed
            The disk is full or fails; the draft is of no more use.
        """
        if len(keys) != len(embedded.lengths):
            raise ValueError(f"{len(keys)} keys for {len(embedded.lengths)} embeddings")
        ends = np.cumsum(embedded.lengths)
        rows = np.ascontiguousarray(embedded.tokens, np.dtype(self.recipe.store_dtype))
        for at, key in enumerate(keys):
            if not embedded.finite[at]:
                continue
            own = rows[ends[at] - embedded.lengths[at] : ends[at]]
            self._keys.append(key)
            self._lengths.append(len(own))
            self._checksums.append(crc32c(own))
            self._shard_crc = extend_crc32c(self._shard_crc, own)  # while it is in the cache
            self._means.append(embedded.mean[at])
            if embedded.cls is not None:
                self._cls.append(embedded.cls[at])
        if not embedded.finite.all():
            rows = rows[np.repeat(embedded.finite, embedded.lengths)]
        with writing_to(self.folder):
            self._write_shard(rows)

    def publish(self, provenance: dict[str, Any]) -> str | None:
        """Finish the draft and move it to its name.

        Parameters
        ----------
        provenance : versions, device, times; kept in `segment.json`, changes nothing

        Returns
        -------
        The segment's name, or None where nothing was appended. A segment of that name that is
        already published stays as it is.

        Raises
        ------
        WriteFailed
            The disk is full or fails, or the draft was removed; nothing was published.
        """
        if not self._keys:
            return None
        with writing_to(self.folder):
            name = self._finish(provenance)
        files = {file: int(entry["bytes"]) for file, entry in self._files.items()}
        publish_segment(self.folder, self.recipe_folder, name, files)
        return name

    def _finish(self, provenance: dict[str, Any]) -> str:
        rows, width = sum(self._lengths), self.recipe.width
        dtype = self.recipe.store_dtype
        tail = np.frombuffer(zarr_files.shard_tail(rows, width, dtype), np.uint8)
        self._shard_crc = extend_crc32c(self._shard_crc, tail)
        self._write_shard(tail)
        self._note(TOKENS_SHARD, self._shard_bytes, self._shard_crc)
        self._describe("tokens", zarr_files.tokens_document(rows, width, dtype))
        lengths = np.array(self._lengths, np.int64)
        self._array("start", np.cumsum(lengths) - lengths, ("sequence",))
        self._array("length", lengths, ("sequence",))
        packed = np.frombuffer(bytes.fromhex("".join(self._keys)), np.uint8).reshape(-1, 16)
        self._array("keys", packed, ("sequence", "byte"))
        self._array("crc32c", np.array(self._checksums, np.uint32), ("sequence",))
        self._array("mean", np.stack(self._means), ("sequence", "feature"))
        if self._cls:
            self._array("cls", np.stack(self._cls), ("sequence", "feature"))
        attributes = {"recipe": self.recipe.document}
        self._write(GROUP, zarr_files.group_document(self._documents, attributes))
        name = segment_name(self._keys)
        self._write(DOCUMENT, write_document(self._document(name, provenance)))
        return name

    def _document(self, name: str, provenance: dict[str, Any]) -> dict[str, Any]:
        return {
            "segment": name,
            "recipe": self.recipe.name,
            "keys": len(self._keys),
            "tokens": sum(self._lengths),
            "width": self.recipe.width,
            "dtype": self.recipe.store_dtype,
            "bytes": sum(entry["bytes"] for entry in self._files.values()),
            "files": dict(self._files),
            "provenance": provenance,
        }

    def _array(self, name: str, array: NDArray[Any], names: tuple[str, ...]) -> None:
        self._describe(name, zarr_files.array_document(array.shape, array.dtype, names))
        self._write(CHUNKS[name], zarr_files.raw(array))

    def _describe(self, name: str, document: bytes) -> None:
        self._documents[name] = document
        self._write(f"{name}/zarr.json", document)

    def _write(self, name: str, content: bytes) -> None:
        with make_folder_in(self.folder, name).open("wb") as file:
            file.write(content)
        self._note(name, len(content), crc32c(content))

    def _note(self, name: str, size: int, checksum: int) -> None:
        self._files[name] = {"bytes": size, "crc32c": f"{checksum:08x}"}

    def _write_shard(self, rows: NDArray[Any]) -> None:
        self._shard_bytes += rows.nbytes
        left = rows.reshape(-1).view(np.uint8).data  # of no rows too, which cast refuses
        while left:  # an unbuffered write may take only a part
            left = left[self._shard.write(left) :]
