"""Which segment and row holds a key: sorted tables in, positions out.

N keys in a table, S segments. Tables are sorted by the first eight bytes of their keys, then the
rest, and looked up by binary search; a key that stands in several segments has several entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIND_AT_ONCE = 1 << 20
"""Keys looked up in one go, so that memory stays small."""


FEW_KEYS = 256
"""Fewer are looked up in the order given."""


@dataclass(frozen=True, eq=False)
class SegmentKeys:
    """What the index wants to know of one segment."""

    name: str
    keys: NDArray[np.uint8]
    """Shape (N, 16)."""
    lengths: NDArray[np.int64]
    """Shape (N,): token rows."""
    tokens: int
    bytes: int


@dataclass(frozen=True, eq=False)
class Entries:
    """Columns of a table, one entry a key and segment, sorted by (high, low)."""

    high: NDArray[np.uint64]
    """Shape (N,): first eight bytes of the key, as a big-endian number."""
    low: NDArray[np.uint64]
    """Shape (N,): last eight bytes."""
    segment: NDArray[np.int32]
    """Shape (N,): number in the table's own list of segments."""
    row: NDArray[np.int32]
    """Shape (N,): row of the segment's small arrays."""
    length: NDArray[np.int32]
    """Shape (N,): token rows of the embedding."""

    def __len__(self) -> int:
        return len(self.high)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, eq=False)
class KeyTable:
    """Sorted keys of some segments."""

    names: list[str]
    """S segments, sorted."""
    keys: NDArray[np.int64]
    """Shape (S,): keys of each segment."""
    tokens: NDArray[np.int64]
    """Shape (S,): token rows of each segment."""
    bytes: NDArray[np.int64]
    """Shape (S,): bytes of each segment on disk."""
    entries: Entries

    @classmethod
    def of(cls, segments: Sequence[SegmentKeys]) -> KeyTable:
        """Sort the keys of segments, which come sorted by name."""
        counts = np.array([len(each.keys) for each in segments], np.int64)
        halves = [split_keys(each.keys) for each in segments]
        high = _join([high for high, _ in halves], np.uint64)
        low = _join([low for _, low in halves], np.uint64)
        del halves
        order = np.argsort(high)
        high, low = high[order], low[order]
        tied, turned = _sort_ties(high, low)
        order[tied] = order[turned]
        low[tied] = low[turned]
        segment = np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order]
        row = _join([np.arange(n, dtype=np.int32) for n in counts], np.int32)[order]
        length = _join([each.lengths.astype(np.int32) for each in segments], np.int32)[order]
        return cls(
            names=[each.name for each in segments],
            keys=counts,
            tokens=np.array([each.tokens for each in segments], np.int64),
            bytes=np.array([each.bytes for each in segments], np.int64),
            entries=Entries(high, low, segment, row, length),
        )

    @cached_property
    def unique(self) -> bool:
        """True where no key has two entries."""
        return bool(_first_of_equals(self.entries.high, self.entries.low).all())

    def kept(self, names: Sequence[str]) -> NDArray[np.int32]:
        """Number of each segment in a sorted list of names, -1 where it is not in it: (S,)."""
        place = {name: number for number, name in enumerate(names)}
        return np.array([place.get(name, -1) for name in self.names], np.int32)

    def merged(self, other: KeyTable, names: Sequence[str]) -> KeyTable:
        """Both tables in one, without segments that are not in a sorted list of names."""
        numbers = [table.kept(names) for table in (self, other)]
        ours, theirs = (
            _live(table.entries, number)
            for table, number in zip((self, other), numbers, strict=True)
        )
        at = np.searchsorted(ours.high, theirs.high)
        columns = [np.insert(a, at, b) for a, b in zip(ours, theirs, strict=True)]
        tied, turned = _sort_ties(columns[0], columns[1])
        for column in columns[1:]:
            column[tied] = column[turned]
        place = np.concatenate(numbers)
        live = np.flatnonzero(place >= 0)
        live = live[np.argsort(place[live])]
        both = [*self.names, *other.names]
        columns[2] = np.searchsorted(place[live], columns[2]).astype(np.int32)
        return KeyTable(
            names=[both[number] for number in live],
            keys=np.concatenate([self.keys, other.keys])[live],
            tokens=np.concatenate([self.tokens, other.tokens])[live],
            bytes=np.concatenate([self.bytes, other.bytes])[live],
            entries=Entries(*columns),
        )


class KeyIndex:
    """Keys of one recipe to (segment, row). A key in two segments is found in the first."""

    def __init__(self, names: Sequence[str], tables: Sequence[KeyTable]) -> None:
        """Look keys up in several tables.

        Parameters
        ----------
        names : the segments there are, sorted; entries of others in the tables are passed over
        tables : together they hold each of these segments once
        """
        self.names = list(names)
        self.tables = list(tables)
        self._numbers = [table.kept(names) for table in tables]

    def __len__(self) -> int:
        return self._distinct

    @property
    def tokens(self) -> int:
        """Token rows in all segments."""
        return self._sum("tokens")

    @property
    def bytes(self) -> int:
        """Bytes of all segments on disk."""
        return self._sum("bytes")

    def find(
        self, keys: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Segment, row and length of each key; segment -1 where the key is absent.

        Parameters
        ----------
        keys : uint8, shape (N, 16)

        Returns
        -------
        three int32 of shape (N,)
        """
        found = np.full((3, len(keys)), -1, np.int32)
        for first in range(0, len(keys), FIND_AT_ONCE):
            part = slice(first, first + FIND_AT_ONCE)
            high, low = split_keys(keys[part])
            order = np.arange(len(high))
            if len(high) > FEW_KEYS:  # neighbours in the table are then asked for in turn
                order = np.argsort(high)
                high, low = high[order], low[order]
            here = np.full((3, len(order)), -1, np.int32)
            for table, numbers in zip(self.tables, self._numbers, strict=True):
                _find_in(table, numbers, high, low, here)
            found[:, first + order] = here
        return found[0], found[1], found[2]

    def sorted_keys(self) -> NDArray[np.uint8]:
        """All keys once, sorted: uint8, shape (N, 16)."""
        live = [
            _live(table.entries, numbers)
            for table, numbers in zip(self.tables, self._numbers, strict=True)
        ]
        high = _join([each.high for each in live], np.uint64)
        low = _join([each.low for each in live], np.uint64)
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        first = _first_of_equals(high, low)
        return join_halves(high[first], low[first])

    @cached_property
    def _distinct(self) -> int:
        count = 0
        for number, table in enumerate(self.tables):
            live = _live(table.entries, self._numbers[number])
            first = _first_of_equals(live.high, live.low)
            if number:
                earlier = KeyIndex(self.names, self.tables[:number])
                segment, _, _ = earlier.find(join_halves(live.high[first], live.low[first]))
                count += int(np.count_nonzero(segment < 0))
            else:
                count += int(np.count_nonzero(first))
        return count

    def _sum(self, column: str) -> int:
        return sum(
            int(getattr(table, column)[numbers >= 0].sum())
            for table, numbers in zip(self.tables, self._numbers, strict=True)
        )


def _find_in(
    table: KeyTable,
    numbers: NDArray[np.int32],
    high: NDArray[np.uint64],
    low: NDArray[np.uint64],
    found: NDArray[np.int32],
) -> None:
    """Note entries that stand in an earlier segment than those found before.

    Parameters
    ----------
    numbers : int32, shape (S,): number of each segment of the table, -1 for those that are gone
    high, low : uint64, shape (N,): the keys, sorted by `high`
    found : int32, shape (3, N): segment, row and length, changed in place
    """
    entries, last = table.entries, len(table.entries) - 1
    if last < 0:
        return
    at = np.searchsorted(entries.high, high)
    looking = np.arange(len(high))
    while len(looking):  # once, and again for keys that share eight bytes with others
        here = np.minimum(at[looking], last)
        same_high = (entries.high[here] == high[looking]) & (at[looking] <= last)
        looking, here = looking[same_high], here[same_high]
        number = numbers[entries.segment[here]]
        before = found[0, looking]
        same = entries.low[here] == low[looking]
        better = same & (number >= 0) & ((before < 0) | (number < before))
        to, source = looking[better], here[better]
        found[0, to] = number[better]
        found[1, to] = entries.row[source]
        found[2, to] = entries.length[source]
        if table.unique:
            looking = looking[~same]
        at[looking] += 1


def split_keys(keys: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """First and last eight bytes of each key as big-endian numbers: sorts as the bytes do."""
    halves = np.ascontiguousarray(keys).view(">u8").reshape(-1, 2)
    return halves[:, 0].astype(np.uint64), halves[:, 1].astype(np.uint64)


def join_halves(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Keys of their halves: uint8, shape (N, 16)."""
    return np.stack([high, low], axis=1).astype(">u8").view(np.uint8).reshape(-1, 16)


def pack_keys(keys: Sequence[str]) -> NDArray[np.uint8]:
    """Hex keys to bytes: uint8, shape (N, 16).

    Raises
    ------
    ValueError
        A key is not 32 hex digits in lower case.
    """
    packed = np.empty((len(keys), 16), np.uint8)
    for first in range(0, len(keys), FIND_AT_ONCE):
        part = keys[first : first + FIND_AT_ONCE]
        joined = "".join(part)
        try:
            content = bytes.fromhex(joined)
        except ValueError:
            content = b""
        # fromhex passes over spaces and takes capitals: both would be other keys than were stored
        if set(map(len, part)) - {32} or len(content) != 16 * len(part) or joined != joined.lower():
            raise ValueError("a key has 32 hex digits")
        packed[first : first + FIND_AT_ONCE] = np.frombuffer(content, np.uint8).reshape(-1, 16)
    return packed


def _join(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _first_of_equals(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True at the first of each run of equal keys: bool, shape (N,)."""
    first = np.ones(len(high), np.bool_)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return first


def _sort_ties(
    high: NDArray[np.uint64], low: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For keys sorted by `high` alone: places whose `high` is shared, and what belongs there.

    Whole sorts by two columns take three times as long, and few keys share eight bytes.
    """
    same = high[1:] == high[:-1]
    shared = np.zeros(len(high), np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    tied = np.flatnonzero(shared)
    return tied, tied[np.lexsort((low[tied], high[tied]))]


def _live(entries: Entries, numbers: NDArray[np.int32]) -> Entries:
    """Entries of the segments that have a number, with that number."""
    segment = numbers[entries.segment]
    if (numbers >= 0).all():
        return Entries(entries.high, entries.low, segment, entries.row, entries.length)
    live = segment >= 0
    return Entries(
        entries.high[live],
        entries.low[live],
        segment[live],
        entries.row[live],
        entries.length[live],
    )
