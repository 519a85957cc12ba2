"""Token features on the positions of the view: rows and their spans in, one row a position out.

Shape letters: t tokens, D width, L positions of the view, C codons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def owners(
    offset: NDArray[np.integer], width: NDArray[np.integer], count: int, length: int
) -> NDArray[np.int64]:
    """Which token lies over each position of a view.

    Parameters
    ----------
    offset, width : integers, shape (t,) or more
        A tokenizer's `spans`, in view positions; those of a cut sequence may name more tokens.
    count : t
    length : positions of the view

    Returns
    -------
    int64, shape (L,); -1 where no token lies, as past the end of a cut sequence

    Raises
    ------
    ValueError
        Fewer spans than tokens, tokens that overlap, or a token outside of the view.
    """
    if len(offset) < count or len(offset) != len(width):
        raise ValueError(f"{len(offset)} offsets and {len(width)} widths for {count} tokens")
    first, wide = offset[:count], width[:count]
    ends = first + wide
    if len(first) and (first[0] < 0 or ends[-1] > length):
        raise ValueError(f"tokens lie at {first[0]} to {ends[-1]} of a view of {length} positions")
    if (first[1:] < ends[:-1]).any():
        raise ValueError("tokens overlap, so a position has more than one row")
    token = np.repeat(np.arange(count), wide)
    within = np.arange(len(token)) - (np.cumsum(wide) - wide)[token]
    out = np.full(length, -1, np.int64)
    out[first[token] + within] = token
    return out


def spread(
    tokens: NDArray[Any], offset: NDArray[np.integer], width: NDArray[np.integer], length: int
) -> NDArray[Any]:
    """Give every position of a view the row of the token over it.

    Parameters
    ----------
    tokens : float, shape (t, D)
    offset, width, length : as in `owners`

    Returns
    -------
    dtype of `tokens`, shape (L, D); NaN where no token lies

    Raises
    ------
    ValueError
        As in `owners`.
    """
    owner = owners(offset, width, len(tokens), length)
    out = np.full((length, tokens.shape[1]), np.nan, tokens.dtype)
    out[owner >= 0] = tokens[owner[owner >= 0]]
    return out


def mean_of_owners(tokens: NDArray[Any], owner: NDArray[np.int64]) -> NDArray[np.float32]:
    """Average the tokens over the nucleotides of each codon.

    What `codon_means` gives after `spread`, without a row for every nucleotide.

    Parameters
    ----------
    tokens : float, shape (t, D)
    owner : int64, shape (C, 3)
        Token over each nucleotide of a codon.

    Returns
    -------
    float32, shape (C, D)
    """
    first, second, third = owner.T
    total: NDArray[np.float32] = tokens[first].astype(np.float32)
    total += tokens[second]
    total += tokens[third]
    total /= np.float32(3)
    return total


def codon_means(features: NDArray[Any]) -> NDArray[np.float32]:
    """Average the rows of each codon of a coding sequence read in frame.

    Parameters
    ----------
    features : float, shape (L, D)
        One row a nucleotide.

    Returns
    -------
    float32, shape (C, D) with C = L / 3; NaN where a nucleotide has none

    Raises
    ------
    ValueError
        L is no whole number of codons.
    """
    length, width = features.shape
    if length % 3:
        raise ValueError(f"{length} nucleotides are no whole number of codons")
    codons = features.reshape(length // 3, 3, width)
    means: NDArray[np.float32] = codons.mean(axis=1, dtype=np.float32)
    return means
