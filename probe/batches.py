"""Heads run over features without gradients: distinct inputs in, one row of outputs each out.

Shape letters: K sequences stored, N sequences run, T tokens in all, D width of a token, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.loaders.features import Features, FeatureSet
from embedstore.loaders.packing import cut_lengths, cut_passes

if TYPE_CHECKING:
    from probe.bank import Head

RUN_TOKENS = 16_384
"""Tokens in one forward pass without gradients: bounds memory, changes no number."""


def head_outputs(
    head: Head, tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """`bank_outputs` of one head for sequences in an array, shape (N, outputs).

    Parameters
    ----------
    tokens : float16 or float32, shape (T, D)
    starts, lengths : int64, shape (N,)
        First row and number of rows of each sequence.
    """
    inputs = np.arange(len(starts))
    (outputs,) = bank_outputs([head], Features(tokens, starts, lengths, inputs), inputs)
    return np.asarray(outputs)


def bank_outputs(
    heads: Sequence[Head],
    features: FeatureSet,
    inputs: NDArray[np.int64],
    keep: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Run heads of one kind and shape without dropout and without gradients.

    Parameters
    ----------
    inputs : int64, shape (N,), numbers of distinct inputs of the features
    keep : int64, shape (N,), how many first tokens of each are read; None: all

    Returns
    -------
    float32, shape (H, N, outputs); by token (H, N, L) of the longest, nan behind the others
    """
    import torch

    from probe.bank import run_heads

    by_token = heads[0].by_token
    wide = heads[0].fc.out_features
    if by_token:
        wide = int(cut_lengths(features.lengths[inputs], keep).max(initial=0))
    outputs = np.full((len(heads), len(inputs), wide), np.nan, np.float32)
    with torch.inference_mode():
        for part, tokens, lengths in features.passes(inputs, RUN_TOKENS, keep):
            found = run_heads(heads, tokens, lengths).cpu().numpy()
            if by_token:
                outputs[:, part][:, is_within(lengths.cpu().numpy(), wide)] = found[..., 0]
            else:
                outputs[:, part] = found
    return outputs


def is_within(lengths: NDArray[np.int64], longest: int) -> NDArray[np.bool_]:
    """Which places of padded rows hold a token: shape (N, longest)."""
    within: NDArray[np.bool_] = np.arange(longest) < lengths[:, None]
    return within


def passes(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of sequences of at most `RUN_TOKENS` together, or of one longer sequence."""
    return cut_passes(lengths, RUN_TOKENS)
