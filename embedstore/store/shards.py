"""Rows straight from shard files: spans of segments in, checked bytes out.

Random reads are tried without waiting first: what the page cache holds is there at once, and the
system begins to fetch the rest side by side, which is then waited for. So cold reads queue on the
disk without a thread. Reads that go on where the last one ended are left to the system's readahead.

File handles are few, whatever is asked for: all readers of a process together keep at most
`handles_allowed()` open between reads, and all reads that go on at one time use at most as many.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Condition, Lock
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.errors import DamagedSegment, Unreachable
from embedstore.regular_files import open_handle
from embedstore.store.objects import TOO_MANY_OPEN, unless_damage
from embedstore.store.published import Segment
from embedstore.store.segment import TOKENS_SHARD

if sys.platform != "win32":
    import resource

OPEN_FILES = 128
SHARE_OF_LIMIT = 8
"""One in so many of the files that this process may open is a shard kept open."""
OPEN_ATTEMPTS = 5
WAIT_SECONDS = 0.05
READ_BYTES = 2 << 20
"""Neighbours in a shard are read together up to this size: checked while still in the cache."""
AHEAD_BYTES = 64 << 20
"""Most that is asked of the disk before it is waited for."""
NOWAIT = getattr(os, "RWF_NOWAIT", None)
"""Flag of a read that gives up rather than waits; only Linux has it."""
CANNOT_NOWAIT = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


@dataclass(frozen=True, eq=False)
class Wanted:
    """Sequences to read, in the order of the output; N of them."""

    segments: list[Segment]
    segment: NDArray[np.int64]
    """Shape (N,): place in `segments`."""
    rows: NDArray[np.int64]
    """Shape (N,): rows of the segment's small arrays."""
    offsets: NDArray[np.int64]
    """Shape (N,): first byte in the shard."""
    sizes: NDArray[np.int64]
    """Shape (N,): bytes."""
    checksums: NDArray[np.int64]
    """Shape (N,): crc32c of the bytes."""
    to: NDArray[np.int64]
    """Shape (N,): first byte in the output."""


def handles_allowed() -> int:
    """Shards that this process keeps open at most, by its limit of open files (`ulimit -n`)."""
    if sys.platform == "win32":
        return OPEN_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return OPEN_FILES
    return max(2, min(OPEN_FILES, soft // SHARE_OF_LIMIT))


class _InUse:
    """Handles that the reads of this process use at this moment: they wait for each other."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._count = 0

    @contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """Wait until so many more are allowed; nobody holds some while waiting for others."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._count or self._count + count <= handles_allowed()
            )
            self._count += count
        try:
            yield
        finally:
            with self._changed:
                self._count -= count
                self._changed.notify_all()


_in_use = _InUse()
_readers: weakref.WeakSet[ShardReader] = weakref.WeakSet()
_registering = Lock()


def _after_fork() -> None:
    global _in_use, _registering
    _in_use, _registering = _InUse(), Lock()  # the threads that held them are not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ShardReader:
    """Shards held open, the one used longest ago closed first; threads may share it."""

    def __init__(self, *, verify: bool = True, open_files: int = OPEN_FILES) -> None:
        self.verify, self._limit = verify, open_files
        self._files: OrderedDict[str, _Shard] = OrderedDict()
        self._lock = Lock()
        with _registering:
            _readers.add(self)

    def read(self, wanted: Wanted, out: NDArray[np.uint8]) -> None:
        """Read sequences and check each.

        Parameters
        ----------
        out : uint8, shape (B,), writable

        Raises
        ------
        DamagedSegment
            A shard is gone, ends too early, or does not match a checksum.
        Unreachable
            A shard cannot be read now: no right, no file handle left, a broken disk.
        """
        # in the order of the output, whose memory is then new only once; but disks are read from
        # front to back
        order = np.arange(len(wanted.rows))
        most = self._most_open()
        warm = len(wanted.segments) <= most
        if not warm:  # segment by segment: each is opened once
            order = np.lexsort((wanted.offsets, wanted.segment))
        while len(order):
            ends = np.cumsum(wanted.sizes[order])
            count = max(1, int(np.searchsorted(ends, AHEAD_BYTES, "right")))
            if len(wanted.segments) > most:
                turns = np.flatnonzero(np.diff(wanted.segment[order[:count]])) + 1
                count = int(turns[most - 1]) if len(turns) >= most else count
            missed = self._read_some(wanted, order[:count], out)
            order = order[count:]
            if warm and 2 * missed > count:
                warm = False
                order = order[np.lexsort((wanted.offsets[order], wanted.segment[order]))]

    def _read_some(self, wanted: Wanted, order: NDArray[np.int64], out: NDArray[np.uint8]) -> int:
        """Read some of the sequences; tells how many runs were not cached."""
        numbers = np.unique(wanted.segment[order]).tolist()
        with _in_use.taking(len(numbers)):
            shards = {number: self._open(wanted.segments[number]) for number in numbers}
            part = _Part(wanted, order, shards, out, verify=self.verify)
            missed = [run for run in part.runs() if not part.read_at_once(*run)]
            missed.sort(key=lambda run: part.place(run[0]))
            for run in missed:
                part.read(*run)
        return len(missed)

    def _most_open(self) -> int:
        """Shards that this reader may keep open: its share of those of the process."""
        return max(1, min(self._limit, handles_allowed() // max(1, len(_readers))))

    def _open(self, segment: Segment) -> _Shard:
        with self._lock:
            shard = self._files.get(segment.name)
            if shard is not None:
                self._files.move_to_end(segment.name)
                return shard
        shard = self._open_anew(segment)
        with self._lock:
            self._files[segment.name] = shard
            while len(self._files) > self._most_open():
                self._files.popitem(last=False)
        return shard

    def _open_anew(self, segment: Segment) -> _Shard:
        """Open a shard; where no handle is left, those that only wait for use are closed first."""
        for attempt in range(OPEN_ATTEMPTS):
            try:
                return _Shard(segment)
            except Unreachable as error:
                cause = error.__cause__
                used_up = isinstance(cause, OSError) and cause.errno in TOO_MANY_OPEN
                if not used_up or attempt == OPEN_ATTEMPTS - 1:
                    raise
            with _registering:
                readers = list(_readers)
            for reader in readers:
                reader.let_go()
            del reader, readers
            time.sleep(attempt * WAIT_SECONDS)
        raise AssertionError("an attempt returns or raises")

    def let_go(self) -> None:
        """Close every shard that no read is using."""
        with self._lock:
            self._files.clear()


class _Shard:
    """An open file; closed when the last user lets go of it."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.nowait = NOWAIT is not None
        """Whether reads that never wait work here."""
        self.next = 0
        """Where the last read ended."""
        path = segment.data / TOKENS_SHARD
        root = segment.folder.parent.parent.parent.parent  # STORE/recipes/RECIPE/segments/SEG
        assert isinstance(path, Path)
        assert isinstance(root, Path)
        try:
            self.handle = open_handle(path, within=root)
        except OSError as error:
            unless_damage(error, path)
            what = f"{TOKENS_SHARD} cannot be opened ({error.strerror})"
            raise segment.damaged(what) from error

    def unreadable(self, error: OSError) -> DamagedSegment:
        """The error of a read that failed."""
        unless_damage(error, self.segment.data / TOKENS_SHARD)
        return self.segment.damaged(f"{TOKENS_SHARD} cannot be read ({error.strerror})")

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


class _Part:
    """Some of the sequences, in an order; runs of them, [first, last), are read in one go."""

    def __init__(
        self,
        wanted: Wanted,
        order: NDArray[np.int64],
        shards: Mapping[int, _Shard],
        out: NDArray[np.uint8],
        *,
        verify: bool,
    ) -> None:
        self._segment, offsets = wanted.segment[order], wanted.offsets[order]
        sizes, to = wanted.sizes[order], wanted.to[order]
        follows = self._segment[1:] == self._segment[:-1]
        follows &= offsets[1:] == (offsets + sizes)[:-1]
        follows &= to[1:] == (to + sizes)[:-1]
        blocks = np.cumsum(sizes) // READ_BYTES
        follows &= blocks[1:] == blocks[:-1]
        self._cuts = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(order)]
        # plain numbers: looking one up is many times faster than in an array
        self._offsets, self._begins, self._ends = (
            each.tolist() for each in (offsets, to, to + sizes)
        )
        self._rows, self._checksums = wanted.rows[order], wanted.checksums[order].tolist()
        self._shards = [shards[number] for number in self._segment.tolist()]
        self._out, self._verify = out, verify

    def runs(self) -> Iterator[tuple[int, int]]:
        """Neighbours in a shard and in the output, up to READ_BYTES."""
        return pairwise(self._cuts)

    def place(self, number: int) -> tuple[int, int]:
        """Where a sequence stands on disk: to sort by."""
        return int(self._segment[number]), self._offsets[number]

    def read_at_once(self, first: int, last: int) -> bool:
        """Read a run if it is cached or continues the last one; else let the system fetch it."""
        shard, offset = self._shards[first], self._offsets[first]
        buffer: Any = self._out[self._begins[first] : self._ends[last - 1]]
        if offset == shard.next:
            self.read(first, last)
            return True
        if not shard.nowait:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(shard.handle, offset, len(buffer), os.POSIX_FADV_WILLNEED)
            return False
        try:
            got = os.preadv(shard.handle, [buffer], offset, NOWAIT or 0)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in CANNOT_NOWAIT:
                raise shard.unreadable(error) from error
            shard.nowait = False
            return False
        if got < len(buffer):
            return False  # no error here: the rest is waited for
        shard.next = offset + got
        self._check(first, last)
        return True

    def read(self, first: int, last: int) -> None:
        """Read a run, however long it takes."""
        shard, offset = self._shards[first], self._offsets[first]
        left: Any = self._out[self._begins[first] : self._ends[last - 1]]
        while len(left):
            try:
                got = os.preadv(shard.handle, [left], offset)
            except OSError as error:
                raise shard.unreadable(error) from error
            if got == 0:
                raise shard.segment.damaged(f"{TOKENS_SHARD} ends too early")
            left, offset = left[got:], offset + got  # a read may give less than was asked
        shard.next = offset
        self._check(first, last)

    def _check(self, first: int, last: int) -> None:
        if not self._verify:
            return
        for number in range(first, last):
            part = self._out[self._begins[number] : self._ends[number]]
            if crc32c(part) != self._checksums[number]:
                raise self._shards[number].segment.mismatch(int(self._rows[number]))
