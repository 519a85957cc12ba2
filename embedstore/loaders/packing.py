"""Packed tensors from pieces of arrays: what heads read, where they read it.

Shape letters: N sequences, T tokens in all, D width of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def pack(
    parts: Sequence[NDArray[Any]], lengths: NDArray[np.int64], device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Copy sequences end to end, as float32, to a device.

    Parameters
    ----------
    parts : float16 or float32, shape (L, D), N of them
    lengths : int64, shape (N,)

    Returns
    -------
    tokens, lengths
        float32, shape (T, D), and int64, shape (N,).
    """
    import torch

    packed, counts = torch.from_numpy(np.concatenate(parts)), torch.from_numpy(lengths.copy())
    if device != "cpu":  # half the bytes cross in float16; from pinned memory, beside the work
        packed, counts = (
            each.pin_memory().to(device, non_blocking=True) for each in (packed, counts)
        )
    # always into memory of torch: the last digits of a product depend on its alignment
    return packed.to(torch.float32, copy=True), counts


def cut_lengths(lengths: NDArray[np.int64], keep: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Tokens of each sequence, shape (N,), where only the first `keep` of each are wanted."""
    return lengths if keep is None else np.minimum(lengths, keep)


def cut_passes(lengths: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Runs of sequences of at most so many tokens together, or of one longer sequence."""
    first = tokens = 0
    for row, length in enumerate(lengths.tolist()):
        if tokens + length > most and row > first:
            yield slice(first, row)
            first, tokens = row, 0
        tokens += length
    if first < len(lengths):
        yield slice(first, len(lengths))
