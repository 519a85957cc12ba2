"""Rows of segments that lie in a bucket: ranges of objects in, checked bytes out.

One planned ranged read a sequence, of which neighbours share a request; requests go side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from embedstore.errors import Unreachable
from embedstore.store.objects import ObjectPath
from embedstore.store.published import Segment
from embedstore.store.segment import TOKENS_SHARD
from embedstore.store.shards import Wanted

PART_BYTES = 16 << 20
"""Most that is planned for one thread at a time, or one longer sequence."""
THREADS = 8


class RangeReader:
    """Reads what `shards.ShardReader` reads from disk; holds nothing open."""

    def __init__(self, *, verify: bool = True) -> None:
        self.verify = verify

    def fetch(self, segments: Sequence[Segment]) -> None:
        """Ask for what is to be known of segments before their rows, for many at a time.

        Raises
        ------
        DamagedSegment, NewerFormat, Unreachable
        """
        if len(segments) > 1:
            with ThreadPoolExecutor(min(THREADS, len(segments))) as pool:
                for _ in pool.map(lambda each: (each.start, each.length, each.crc32c), segments):
                    pass

    def read(self, wanted: Wanted, out: NDArray[np.uint8]) -> None:
        """Read sequences and check each.

        Parameters
        ----------
        out : uint8, shape (B,), writable

        Raises
        ------
        DamagedSegment
            An object is gone, ends too early, or does not match a checksum.
        Unreachable
        """
        parts = list(_parts(wanted))
        if len(parts) == 1:
            self._read_part(wanted, parts[0], out)
        elif parts:
            with ThreadPoolExecutor(min(THREADS, len(parts))) as pool:
                waiting = [pool.submit(self._read_part, wanted, part, out) for part in parts]
                for each in waiting:
                    each.result()

    def _read_part(self, wanted: Wanted, part: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        segment = wanted.segments[int(wanted.segment[part[0]])]
        sizes, begins = wanted.sizes[part].tolist(), wanted.to[part].tolist()
        shard = segment.data / TOKENS_SHARD
        assert isinstance(shard, ObjectPath)
        try:
            ranges = shard.read_ranges(wanted.offsets[part].tolist(), sizes)
        except FileNotFoundError as error:
            raise segment.damaged(f"{TOKENS_SHARD} cannot be read ({error.strerror})") from error
        except Unreachable:
            size, ends = shard.size(), wanted.offsets[part] + wanted.sizes[part]
            if size is not None and size < ends.max():
                raise segment.damaged(f"{TOKENS_SHARD} ends too early") from None
            raise
        checksums = wanted.checksums[part].tolist()
        for number, content in enumerate(ranges):
            if len(content) != sizes[number]:
                raise segment.damaged(f"{TOKENS_SHARD} ends too early")
            if self.verify and crc32c(content) != checksums[number]:
                raise segment.mismatch(int(wanted.rows[part[number]]))
            out[begins[number] : begins[number] + sizes[number]] = content


def _parts(wanted: Wanted) -> Iterator[NDArray[np.int64]]:
    """Places in `wanted` of sequences of one segment, in the order of the shard."""
    order = np.lexsort((wanted.offsets, wanted.segment))
    numbers = wanted.segment[order]
    blocks = np.cumsum(wanted.sizes[order]) // PART_BYTES
    cuts = np.flatnonzero((numbers[1:] != numbers[:-1]) | (blocks[1:] != blocks[:-1])) + 1
    if len(order):
        yield from np.split(order, cuts)
