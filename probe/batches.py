"""Packed batches from features in memory, and heads run over many of them.

Shape letters: K sequences stored, N sequences taken, T tokens in all, D width of a token, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from probe.bank import Head

RUN_TOKENS = 16_384
"""Tokens in one forward pass without gradients: bounds memory, changes no number."""


def take(
    tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Copy some sequences end to end.

    Parameters
    ----------
    tokens : float16 or float32, shape (rows of all sequences, D)
    starts, lengths : int64, shape (N,)
        First row and number of rows of each sequence to take.

    Returns
    -------
    tokens, lengths
        float32, shape (T, D), and int64, shape (N,).
    """
    import torch

    parts = [tokens[s : s + n] for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
    packed = torch.from_numpy(np.concatenate(parts))
    # always into memory of torch: the last digits of a product depend on its alignment
    return packed.to(torch.float32, copy=True), torch.from_numpy(lengths.copy())


def head_outputs(
    head: Head, tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """`bank_outputs` of one head, shape (N, outputs)."""
    outputs: NDArray[np.float32] = bank_outputs([head], tokens, starts, lengths)[0]
    return outputs


def bank_outputs(
    heads: Sequence[Head],
    tokens: NDArray[Any],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Run heads of one kind and shape without dropout and without gradients.

    Parameters
    ----------
    tokens, starts, lengths : as in `take`

    Returns
    -------
    float32, shape (H, N, outputs)
    """
    import torch

    from probe.bank import run_heads

    outputs = np.empty((len(heads), len(starts), heads[0].fc.out_features), np.float32)
    with torch.inference_mode():
        for part in passes(lengths):
            taken = take(tokens, starts[part], lengths[part])
            outputs[:, part] = run_heads(heads, *taken).numpy()
    return outputs


def passes(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of sequences of at most `RUN_TOKENS` together, or of one longer sequence."""
    first = tokens = 0
    for row, length in enumerate(lengths.tolist()):
        if tokens + length > RUN_TOKENS and row > first:
            yield slice(first, row)
            first, tokens = row, 0
        tokens += length
    if first < len(lengths):
        yield slice(first, len(lengths))
