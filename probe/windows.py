"""Convolution and max over time on packed sequences: tokens and taps in, the best windows out.

Shape letters: N sequences, T tokens in all, D width of a token, C channels, k width of a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_NARROW = 32
"""Below this width of a token, copying windows into rows is faster than one product a tap."""


def pad_short(tokens: Tensor, lengths: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Append zero tokens to every sequence of fewer than `least`.

    Parameters
    ----------
    tokens : float, shape (T, D)
    lengths : int64, shape (N,)

    Returns
    -------
    tokens, lengths
        As given where no sequence is short.
    """
    padded = lengths.clamp(min=least)
    if torch.equal(padded, lengths):
        return tokens, lengths
    shift = (padded.cumsum(0) - padded) - (lengths.cumsum(0) - lengths)  # (N,)
    new_rows = torch.arange(len(tokens), device=tokens.device) + shift.repeat_interleave(lengths)
    zeros = tokens.new_zeros(int(padded.sum()), tokens.shape[1])
    return zeros.index_copy(0, new_rows, tokens), padded


def pad_ends(tokens: Tensor, lengths: Tensor, before: int, behind: int) -> tuple[Tensor, Tensor]:
    """Put zero tokens around every sequence.

    Parameters
    ----------
    tokens : float, shape (T, D)
    lengths : int64, shape (N,)
    before, behind : zero tokens at each end

    Returns
    -------
    tokens, rows
        shape (T + N * (before + behind), D); and int64, shape (T,): where each token went.
    """
    shift = torch.arange(len(lengths), device=tokens.device) * (before + behind) + before
    rows = torch.arange(len(tokens), device=tokens.device) + shift.repeat_interleave(lengths)
    zeros = tokens.new_zeros(len(tokens) + len(lengths) * (before + behind), tokens.shape[1])
    return zeros.index_copy(0, rows, tokens), rows


def max_over_windows(tokens: Tensor, taps: Tensor, lengths: Sequence[int]) -> Tensor:
    """Convolve packed sequences and take each channel's maximum over each sequence.

    Parameters
    ----------
    tokens : float, shape (T, D)
    taps : shape (C, k, D)
    lengths : tokens of each sequence, N of them, k or more each

    Returns
    -------
    shape (N, C)
        Only the windows that won have a gradient; of equal windows one takes all of it.
    """
    maxima: Tensor = _MaxOverWindows.apply(tokens, taps, lengths)
    return maxima


class _MaxOverWindows(torch.autograd.Function):
    """Backward gathers the N * C windows that won, instead of undoing a whole convolution."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, taps: Tensor, lengths: Sequence[int]) -> Tensor:
        k = taps.shape[1]
        scores = window_scores(tokens, taps)  # (T - k + 1, C)
        maxima = tokens.new_empty(len(lengths), taps.shape[0])
        winners = torch.empty_like(maxima, dtype=torch.int64)  # first token of the window that won
        start = 0
        for row, length in enumerate(lengths):
            own = scores[start : start + length - k + 1]  # windows across the boundary left out
            torch.max(own, dim=0, out=(maxima[row], winners[row]))
            winners[row] += start
            start += length
        ctx.save_for_backward(tokens, taps, winners)
        return maxima

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        tokens, taps, winners = ctx.saved_tensors
        grad_tokens = torch.zeros_like(tokens) if ctx.needs_input_grad[0] else None
        grad_taps = torch.empty_like(taps) if ctx.needs_input_grad[1] else None
        by_channel = grad.t().contiguous()  # (C, N)
        for tap in range(taps.shape[1]):
            rows = winners + tap  # (N, C)
            if grad_taps is not None:
                grad_taps[:, tap] = functional.embedding_bag(
                    rows.t().contiguous(), tokens, mode="sum", per_sample_weights=by_channel
                )
            if grad_tokens is not None:
                spread = grad[:, :, None] * taps[:, tap]  # (N, C, D)
                grad_tokens.index_add_(0, rows.flatten(), spread.flatten(0, 1))
        return grad_tokens, grad_taps, None


def window_scores(tokens: Tensor, taps: Tensor) -> Tensor:
    """Every window's product with every channel, windows across boundaries included.

    Shape (T, D) and (C, k, D) in, (T - k + 1, C) out.
    """
    channels, k, wide = taps.shape
    count = len(tokens) - k + 1
    if wide < _NARROW:
        windows = tokens.contiguous().as_strided((count, k * wide), (wide, 1))
        return windows.contiguous() @ taps.reshape(channels, k * wide).t()
    scores = tokens[:count] @ taps[:, 0].t()
    for tap in range(1, k):
        scores.addmm_(tokens[tap : tap + count], taps[:, tap].t())
    return scores
