"""Similar sequences by their k-mers: texts in, a group number for each out; numpy alone.

MinHash (Broder 1997): the share of equal entries in two signatures estimates the Jaccard index of
their sets of k-mers. Pairs that agree in both entries of some band of two are compared (locality
sensitive hashing, Indyk and Motwani 1998), so not every pair has to be. Similar pairs are joined,
and groups are what is connected (single linkage).

Shape letters: N distinct texts, S entries of a signature, L k-mers of a text, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from probe.groups import join, number_by_first

SIGNATURE = 128
BAND = 2
"""Entries that must agree for a pair to be compared: of pairs with Jaccard 0.2, 93 % are found,
0.3: 99.8 %."""
_PAIRS = 1 << 20  # collected at once
_COMPARED = 1 << 14  # signatures side by side in memory
_HASHED = 256  # k-mers at once: what fits in a processor's cache
_PRIME = 0x9E3779B97F4A7C15  # odd: no bit of a letter is lost
_SHIFT = np.uint64(32)


def cluster_by_kmers(texts: Sequence[str], k: int, jaccard: float) -> NDArray[np.int64]:
    """Group texts whose k-mers overlap.

    Parameters
    ----------
    texts : of one alphabet, ASCII
    k : letters of a k-mer; a shorter text is a single word
    jaccard : of the sets of k-mers, from which two texts are joined; estimated with a standard
        error of at most 0.045

    Returns
    -------
    int64, shape (number of texts,)
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    distinct = sorted(set(texts))
    place = {text: number for number, text in enumerate(distinct)}
    group = _cluster(_signatures(distinct, k), jaccard)
    return number_by_first(group[[place[text] for text in texts]])


def _signatures(texts: Sequence[str], k: int) -> NDArray[np.uint32]:
    """Shape (N, S): the smallest value of S hash functions over the k-mers of each text."""
    rng = np.random.Generator(np.random.PCG64(0))
    factors = rng.integers(1 << 63, size=SIGNATURE, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = rng.integers(1 << 63, size=SIGNATURE, dtype=np.uint64)
    smallest = np.empty((len(texts), SIGNATURE), np.uint64)
    buffer = np.empty((_HASHED, SIGNATURE), np.uint64)
    for row, text in enumerate(texts):
        words = _mix(_words(text, k))[:, None]  # (L, 1)
        for first in range(0, len(words), _HASHED):
            part = words[first : first + _HASHED]
            hashed = np.multiply(part, factors, out=buffer[: len(part)])  # multiply-shift
            hashed += offsets
            least = hashed.min(axis=0)
            smallest[row] = least if first == 0 else np.minimum(smallest[row], least)
    return (smallest >> _SHIFT).astype(np.uint32)  # shifted last: it keeps the order


def _words(text: str, k: int) -> NDArray[np.uint64]:
    """The k-mers of a text as numbers: polynomials of their letters modulo 2^64."""
    letters = np.frombuffer(text.encode("ascii").ljust(k, b"\0"), np.uint8).astype(np.uint64)
    count = len(letters) - k + 1
    words = letters[:count].copy()
    for at in range(1, k):
        words += letters[at : at + count] * np.uint64(pow(_PRIME, at, 1 << 64))
    return words


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread the bits (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _cluster(signatures: NDArray[np.uint32], jaccard: float) -> NDArray[np.int64]:
    """Join every compared pair that is similar enough; pairs already together are skipped."""
    count = len(signatures)
    group = np.arange(count)
    for first in range(0, SIGNATURE, BAND):
        band = signatures[:, first : first + BAND].astype(np.uint64)
        _, bucket = np.unique((band[:, 0] << _SHIFT) | band[:, 1], return_inverse=True)
        order = np.argsort(bucket, kind="stable")
        starts = np.flatnonzero(np.diff(bucket[order], prepend=-1))
        sizes = np.diff(starts, append=count)
        # first each with the first of its bucket: what that joins needs no further comparison
        group = _join_similar(signatures, jaccard, group, order, np.repeat(order[starts], sizes))
        for left, right in _pairs_within(order, starts, sizes, group):
            group = _join_similar(signatures, jaccard, group, left, right)
    return group


def _pairs_within(
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    group: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of a bucket, for buckets that hold more than one group; many pairs at a time."""
    lefts: list[NDArray[np.int64]] = []
    rights: list[NDArray[np.int64]] = []
    waiting = 0
    for start, size in zip(starts[sizes > 2].tolist(), sizes[sizes > 2].tolist(), strict=True):
        members = order[start : start + size]
        if (group[members] == group[members[0]]).all():
            continue
        for at in range(1, size - 1):
            rights.append(members[at + 1 :])
            lefts.append(np.full(size - at - 1, members[at]))
            waiting += size - at - 1
            if waiting >= _PAIRS:
                yield np.concatenate(lefts), np.concatenate(rights)
                lefts, rights, waiting = [], [], 0
    if waiting:
        yield np.concatenate(lefts), np.concatenate(rights)


def _join_similar(
    signatures: NDArray[np.uint32],
    jaccard: float,
    group: NDArray[np.int64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The groups after joining those of the P pairs that are similar and still apart."""
    apart = group[left] != group[right]
    left, right = left[apart], right[apart]
    enough = np.zeros(len(left), np.bool_)
    for at in range(0, len(left), _COMPARED):
        part = slice(at, at + _COMPARED)
        same = signatures[left[part]] == signatures[right[part]]  # (P, S)
        enough[part] = same.mean(axis=1) >= jaccard
    if not enough.any():
        return group
    return join(len(group), group[left[enough]], group[right[enough]])[group]
