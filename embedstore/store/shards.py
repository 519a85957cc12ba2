"""Rows straight from shard files: spans of segments in, checked bytes out."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
SHARE_BYTES = 2 << 20
"""A thread gets no less to read than this, so that handing it over costs little."""
THREADS = 8
"""Reads under way at a time: while one is checked others are copied, and disks like a queue."""


@dataclass(slots=True)
class Span:
    """One sequence in a shard, and where it goes."""

    row: int
    """Row of the segment's small arrays."""
    offset: int
    size: int
    to: int
    """First byte in the output."""


class ShardReader:
    """Shards held open, the one used longest ago closed first; threads may share it."""

    def __init__(self, *, verify: bool = True, open_files: int = OPEN_FILES) -> None:
        self.verify, self._limit = verify, open_files
        self._files: OrderedDict[str, _Shard] = OrderedDict()
        self._lock = Lock()

    def read(
        self, wanted: Iterable[tuple[Segment, Sequence[Span]]], out: NDArray[np.uint8]
    ) -> None:
        """Read sequences, neighbours in a shard in one go, and check each.

        Parameters
        ----------
        wanted : for each segment its spans, sorted by offset
        out : uint8, shape (B,), writable

        Raises
        ------
        DamagedSegment
            A shard cannot be read, ends too early, or does not match a checksum.
        """
        runs = [run for segment, spans in wanted for run in self._runs(segment, spans, out)]
        shares = _shares(runs)
        if len(shares) == 1:
            self._fill(runs)
            return
        # the first error is raised once all have stopped: none writes to `out` after that
        with ThreadPoolExecutor(len(shares) - 1) as pool:
            others = [pool.submit(self._fill, share) for share in shares[1:]]
            self._fill(shares[0])
        for other in others:
            other.result()

    def _runs(
        self, segment: Segment, spans: Sequence[Span], out: NDArray[np.uint8]
    ) -> Iterable[_Run]:
        shard = self._open(segment)
        run: _Run | None = None
        for span in spans:
            part = out[span.to : span.to + span.size]
            if (
                run is not None
                and span.offset == run.offset + run.size
                and run.size < READ_BYTES
                and len(run.parts) < READ_PARTS
            ):
                run.parts.append(part)
                run.rows.append(span.row)
                run.size += span.size
                continue
            if run is not None:
                yield run
            run = _Run(segment, shard, span.offset, span.size, [part], [span.row])
        if run is not None:
            yield run

    def _fill(self, runs: Iterable[_Run]) -> None:
        for run in runs:
            run.read()
            if self.verify:
                run.check()

    def _open(self, segment: Segment) -> _Shard:
        with self._lock:
            shard = self._files.get(segment.name)
            if shard is None:
                shard = self._files[segment.name] = _Shard(segment)
                if len(self._files) > self._limit:
                    self._files.popitem(last=False)
            self._files.move_to_end(segment.name)
            return shard


class _Shard:
    """An open file; closed when the last user lets go of it."""

    def __init__(self, segment: Segment) -> None:
        try:
            self.handle = os.open(segment.folder / TOKENS_SHARD, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            what = f"{TOKENS_SHARD} cannot be opened ({error.strerror})"
            raise segment.damaged(what) from error

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


@dataclass(slots=True)
class _Run:
    """Sequences that stand end to end in a shard."""

    segment: Segment
    shard: _Shard
    offset: int
    size: int
    parts: list[NDArray[np.uint8]]
    rows: list[int]

    def read(self) -> None:
        """Fill the parts."""
        parts, offset, left = self.parts, self.offset, self.size
        while left:
            try:
                got = os.preadv(self.shard.handle, cast(Any, parts), offset)
            except OSError as error:
                what = f"{TOKENS_SHARD} cannot be read ({error.strerror})"
                raise self.segment.damaged(what) from error
            if got == 0:
                raise self.segment.damaged(f"{TOKENS_SHARD} ends too early")
            left, offset = left - got, offset + got
            if left:  # a read may give less than was asked
                parts = _behind(parts, got)

    def check(self) -> None:
        """Compare the parts with their checksums."""
        checksums = self.segment.crc32c
        for part, row in zip(self.parts, self.rows, strict=True):
            if crc32c(part) != checksums[row]:
                key = bytes(self.segment.keys[row]).hex()
                raise self.segment.damaged(f"the embedding of {key} does not match its checksum")


def _shares(runs: list[_Run]) -> list[list[_Run]]:
    """Runs for each thread, of about as many bytes."""
    total = sum(run.size for run in runs)
    count = max(1, min(THREADS, total // SHARE_BYTES))
    if count == 1:
        return [runs]
    shares: list[list[_Run]] = [[] for _ in range(count)]
    done = 0
    for run in runs:
        shares[min(count - 1, done * count // total)].append(run)
        done += run.size
    return [share for share in shares if share]


def _behind(parts: list[NDArray[np.uint8]], done: int) -> list[NDArray[np.uint8]]:
    """What is left of buffers after their first bytes."""
    for number, part in enumerate(parts):
        if done < len(part):
            return [part[done:], *parts[number + 1 :]]
        done -= len(part)
    return []
