"""The TextCNN head: packed tokens in, one row of outputs a sequence out.

Shape letters: N sequences, T tokens in all, D width of a token, P projection, C channels,
k width of a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_NARROW = 32
"""Below this width of a token, copying windows into rows is faster than one product a tap."""


class TextCNN(nn.Module):
    """Linear D -> P, convolutions of several widths, ReLU, max over time, dropout, linear.

    After Kim 2014 (arXiv:1408.5882), with the sizes of the paper this project follows.
    Sequences lie end to end: no window crosses into a neighbour, and there is no padding that
    could win a max. A sequence shorter than the widest kernel gets zero tokens on its right, up
    to that width, before the projection; its answer is the same alone and in any batch.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        projection: int = 640,
        channels: int = 100,
        kernels: Sequence[int] = (3, 4, 5),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.proj = nn.Linear(width, projection)
        self.convs = nn.ModuleList(nn.Conv1d(projection, channels, k) for k in kernels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels * len(kernels), outputs)
        self.kernels = tuple(kernels)

    @property
    def sizes(self) -> dict[str, Any]:
        """Arguments that make a head of this shape again."""
        return {
            "width": self.proj.in_features,
            "outputs": self.fc.out_features,
            "projection": self.proj.out_features,
            "channels": self._convolutions[0].out_channels,
            "kernels": list(self.kernels),
            "dropout": self.dropout.p,
        }

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """One row of outputs for each sequence.

        Parameters
        ----------
        tokens : float32 (or the dtype of the parameters), shape (T, D)
            Tokens of all sequences, end to end.
        lengths : int64, shape (N,)
            Tokens of each sequence.

        Returns
        -------
        shape (N, outputs)
        """
        tokens, lengths = pad_short(tokens, lengths, max(self.kernels))
        taps = [conv.weight.transpose(1, 2) for conv in self._convolutions]  # (C, k, P) each
        biases = [conv.bias for conv in self._convolutions if conv.bias is not None]
        if self.folds(len(tokens)):
            taps, biases = self._fold(taps, biases)
        else:
            tokens = self.proj(tokens)
        counts = lengths.tolist()
        maxima = [
            max_over_windows(tokens, w, counts) + b for w, b in zip(taps, biases, strict=True)
        ]
        # ReLU never changes which window is largest, so it can wait until after the max
        features = functional.relu(torch.cat(maxima, dim=1))  # (N, C of all kernels)
        outputs: Tensor = self.fc(self.dropout(features))
        return outputs

    def folds(self, tokens: int) -> bool:
        """Whether folding the projection into the taps takes fewer multiplications.

        Counted for a forward pass over this many tokens and, while gradients are recorded, its
        backward pass, in which only the windows that won are touched.
        """
        wide, projection = self.proj.in_features, self.proj.out_features
        taps = sum(
            conv.out_channels * k for conv, k in zip(self._convolutions, self.kernels, strict=True)
        )
        passes = (
            2 if torch.is_grad_enabled() else 1
        )  # the projection's weights need all tokens again
        apart = tokens * projection * (wide * passes + taps)
        folded = tokens * wide * taps + (2 * passes - 1) * taps * projection * wide
        return folded < apart

    def _fold(self, taps: list[Tensor], biases: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Taps and biases that read tokens as they come: (C, k, P) to (C, k, D).

        Exact: nothing between projection and convolution bends, so their product is one layer.
        """
        # flat: a product of three dimensions takes another path where no gradient is wanted
        flat = [w.reshape(-1, self.proj.out_features) for w in taps]  # (C * k, P)
        moved = [
            b + (each @ self.proj.bias).view(w.shape[:2]).sum(1)
            for each, w, b in zip(flat, taps, biases, strict=True)
        ]
        folded = [
            (each @ self.proj.weight).view(*w.shape[:2], -1)
            for each, w in zip(flat, taps, strict=True)
        ]
        return folded, moved

    @property
    def _convolutions(self) -> list[nn.Conv1d]:
        return [conv for conv in self.convs if isinstance(conv, nn.Conv1d)]


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
        scores = _window_scores(tokens, taps)  # (T - k + 1, C)
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


def _window_scores(tokens: Tensor, taps: Tensor) -> Tensor:
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
