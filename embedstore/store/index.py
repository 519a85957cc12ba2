"""Which segment and row holds a key: sorted arrays, looked up by binary search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class KeyIndex:
    """Keys of one recipe to (segment, row). A key in two segments is found in the first."""

    def __init__(self, keys: Sequence[NDArray[np.uint8]]) -> None:
        """Index the keys of each segment.

        Parameters
        ----------
        keys : uint8, shape (N, 16), one array a segment, in the order of preference
        """
        counts = [len(each) for each in keys]
        high, low = split_keys(np.concatenate(keys) if keys else np.empty((0, 16), np.uint8))
        segment = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        row = np.concatenate([np.arange(n, dtype=np.int32) for n in counts] or [segment])
        order = np.lexsort((low, high))  # stable: equal keys stay in the order of segments
        high, low = high[order], low[order]
        first = np.ones(len(order), np.bool_)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        self._high, self._low = high[first], low[first]
        self._segment, self._row = segment[order][first], row[order][first]

    def __len__(self) -> int:
        return len(self._high)

    def find(self, keys: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Segment and row of each key; segment -1 where the key is absent.

        Parameters
        ----------
        keys : uint8, shape (N, 16)

        Returns
        -------
        two int32 of shape (N,)
        """
        segment = np.full(len(keys), -1, np.int32)
        row = np.full(len(keys), -1, np.int32)
        if not len(self) or not len(keys):
            return segment, row
        high, low = split_keys(keys)
        at = np.searchsorted(self._high, high)
        last = len(self) - 1
        looking = np.arange(len(keys))
        while len(looking):  # once, unless two keys share their first eight bytes
            here = np.minimum(at[looking], last)
            same_high = (at[looking] <= last) & (self._high[here] == high[looking])
            hit = same_high & (self._low[here] == low[looking])
            segment[looking[hit]] = self._segment[here[hit]]
            row[looking[hit]] = self._row[here[hit]]
            looking = looking[same_high & ~hit]
            at[looking] += 1
        return segment, row

    def sorted_keys(self) -> NDArray[np.uint8]:
        """All keys, sorted: uint8, shape (N, 16)."""
        both = np.stack([self._high, self._low], axis=1).astype(">u8")
        return both.view(np.uint8).reshape(-1, 16)


def split_keys(keys: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """First and last eight bytes of each key as big-endian numbers: sorts as the bytes do."""
    halves = np.ascontiguousarray(keys).view(">u8").astype(np.uint64).reshape(-1, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()


def pack_keys(keys: Sequence[str]) -> NDArray[np.uint8]:
    """Hex keys to bytes: uint8, shape (N, 16).

    Raises
    ------
    ValueError
        A key is not 32 hex digits.
    """
    if any(len(key) != 32 for key in keys):
        raise ValueError("a key has 32 hex digits")
    return np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, 16)
