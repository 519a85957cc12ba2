"""Token features on the positions of the view: rows and their spans in, one row a position out.

Shape letters: t tokens, D width, L positions of the view, C codons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def spread(
    tokens: NDArray[Any], offset: NDArray[np.integer], width: NDArray[np.integer], length: int
) -> NDArray[Any]:
    """Give every position of a view the row of the token over it.

    Parameters
    ----------
    tokens : float, shape (t, D)
    offset, width : integers, shape (t,)
        A tokenizer's `spans`, in view positions; those of a cut sequence may name more tokens.
    length : positions of the view

    Returns
    -------
    dtype of `tokens`, shape (L, D); NaN where no token lies, as past the end of a cut sequence

    Raises
    ------
    ValueError
        Fewer spans than tokens, tokens that overlap, or a token outside of the view.
    """
    if len(offset) < len(tokens) or len(offset) != len(width):
        raise ValueError(f"{len(offset)} offsets and {len(width)} widths for {len(tokens)} tokens")
    first, wide = offset[: len(tokens)], width[: len(tokens)]
    ends = first + wide
    if len(first) and (first[0] < 0 or ends[-1] > length):
        raise ValueError(f"tokens lie at {first[0]} to {ends[-1]} of a view of {length} positions")
    if (first[1:] < ends[:-1]).any():
        raise ValueError("tokens overlap, so a position has more than one row")
    owner = np.repeat(np.arange(len(tokens)), wide)
    within = np.arange(len(owner)) - (np.cumsum(wide) - wide)[owner]
    out = np.full((length, tokens.shape[1]), np.nan, tokens.dtype)
    out[first[owner] + within] = tokens[owner]
    return out


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
