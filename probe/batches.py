"""Packed batches from features in memory, and a head run over many of them.

Shape letters: K sequences stored, N sequences taken, T tokens in all, D width of a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from probe.heads import TextCNN

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
    head: TextCNN, tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Run a head in evaluation mode, without gradients.

    Parameters
    ----------
    tokens, starts, lengths : as in `take`

    Returns
    -------
    float32, shape (N, outputs)
    """
    import torch

    head.eval()
    outputs = np.empty((len(starts), head.fc.out_features), np.float32)
    with torch.inference_mode():
        for part in passes(lengths):
            outputs[part] = head(*take(tokens, starts[part], lengths[part])).numpy()
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
