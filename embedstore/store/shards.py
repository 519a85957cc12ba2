"""Rows straight from shard files: spans of a segment in, checked bytes out."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.store.published import Segment
from embedstore.store.segment import TOKENS_SHARD

OPEN_FILES = 128
READ_BYTES = 1 << 20
"""Neighbours in a shard are read together up to this size: checked while still in the cache."""
READ_PARTS = 512
"""Buffers of one read; systems allow 1,024."""


class ShardReader:
    """Shards held open, the one used longest ago closed first; threads may share it."""

    def __init__(self, *, verify: bool = True, open_files: int = OPEN_FILES) -> None:
        self.verify, self._limit = verify, open_files
        self._files: OrderedDict[Path, _Shard] = OrderedDict()
        self._lock = Lock()

    def read(
        self,
        segment: Segment,
        rows: NDArray[np.int32],
        spans: NDArray[np.int64],
        out: NDArray[np.uint8],
    ) -> None:
        """Read sequences of one segment, neighbours in one go, and check each.

        Parameters
        ----------
        rows : int32, shape (N,): rows of the segment's small arrays
        spans : int64, shape (3, N): offset in the shard, bytes, offset in `out`; by first offset
        out : uint8, shape (B,), writable

        Raises
        ------
        DamagedSegment
            The shard cannot be read, ends too early, or does not match a checksum.
        """
        shard = self._open(segment)
        checksums = segment.crc32c[rows].tolist()
        first, begin, end = 0, 0, -1
        parts: list[NDArray[np.uint8]] = []
        for number, (offset, size, to) in enumerate(spans.T.tolist()):
            if offset != end or end - begin >= READ_BYTES or len(parts) == READ_PARTS:
                self._fill(shard, segment, begin, parts)
                self._check(segment, rows[first:number], parts, checksums[first:number])
                first, begin, parts = number, offset, []
            parts.append(out[to : to + size])
            end = offset + size
        self._fill(shard, segment, begin, parts)
        self._check(segment, rows[first:], parts, checksums[first:])

    def _fill(
        self, shard: _Shard, segment: Segment, offset: int, parts: list[NDArray[np.uint8]]
    ) -> None:
        wanted = sum(map(len, parts))
        while wanted:
            try:
                got = os.preadv(shard.handle, cast(Any, parts), offset)
            except OSError as error:
                what = f"{TOKENS_SHARD} cannot be read ({error.strerror})"
                raise segment.damaged(what) from error
            if got == 0:
                raise segment.damaged(f"{TOKENS_SHARD} ends too early")
            wanted, offset = wanted - got, offset + got
            if wanted:  # a read may give less than was asked
                parts = _behind(parts, got)

    def _check(
        self,
        segment: Segment,
        rows: NDArray[np.int32],
        parts: Sequence[NDArray[np.uint8]],
        checksums: Sequence[int],
    ) -> None:
        if not self.verify:
            return
        for row, part, checksum in zip(rows, parts, checksums, strict=True):
            if crc32c(part) != checksum:
                key = bytes(segment.keys[row]).hex()
                raise segment.damaged(f"the embedding of {key} does not match its checksum")

    def _open(self, segment: Segment) -> _Shard:
        path = segment.folder / TOKENS_SHARD
        with self._lock:
            shard = self._files.get(path)
            if shard is None:
                try:
                    shard = _Shard(path)
                except OSError as error:
                    what = f"{TOKENS_SHARD} cannot be opened ({error.strerror})"
                    raise segment.damaged(what) from error
                self._files[path] = shard
                if len(self._files) > self._limit:
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
            return shard


class _Shard:
    """An open file; closed when the last user lets go of it."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


def _behind(parts: list[NDArray[np.uint8]], done: int) -> list[NDArray[np.uint8]]:
    """What is left of buffers after their first bytes."""
    for number, part in enumerate(parts):
        if done < len(part):
            return [part[done:], *parts[number + 1 :]]
        done -= len(part)
    return []
