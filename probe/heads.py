"""The TextCNN head: packed tokens in, one row of outputs a sequence out.

Shape letters: H heads, N sequences, T tokens in all, D width of a token, P projection,
C channels, k width of a kernel, F features (C of all kernels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from probe.bank import Head

_NARROW = 32
"""Below this width of a token, copying windows into rows is faster than one product a tap."""


class TextCNN(Head):
    """Linear D -> P, convolutions of several widths, ReLU, max over time, dropout, linear.

    After Kim 2014 (arXiv:1408.5882), with the sizes of the paper this project follows.
    Sequences lie end to end: no window crosses into a neighbour, and there is no padding that
    could win a max. A sequence shorter than the widest kernel gets zero tokens on its right, up
    to that width, before the projection; its answer is the same alone and in any batch.
    """

    kind = "textcnn"

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

    @classmethod
    def features(cls, heads: Sequence[Self], tokens: Tensor, lengths: Tensor) -> Tensor:
        """The largest window of every channel, after ReLU: shape (H, N, F)."""
        tokens, lengths = pad_short(tokens, lengths, max(heads[0].kernels))
        counts = lengths.tolist()
        if heads[0].folds(len(tokens)):
            layers = [head._folded() for head in heads]
            # heads side by side: more channels of one convolution over the same tokens
            kernels = [torch.cat(taps) for taps in zip(*(taps for taps, _ in layers), strict=True)]
            wide = [max_over_windows(tokens, taps, counts) for taps in kernels]  # (N, H * C) each
            maxima = torch.cat([each.unflatten(1, (len(heads), -1)) for each in wide], 2)
            maxima = maxima.transpose(0, 1)  # (H, N, F)
        else:
            layers = [(head._taps(), head._biases()) for head in heads]
            maxima = torch.stack(
                [
                    _maxima(head.proj(tokens), taps, counts)
                    for head, (taps, _) in zip(heads, layers, strict=True)
                ]
            )
        biases = torch.stack([torch.cat(biases) for _, biases in layers])  # (H, F)
        # ReLU never changes which window is largest, so it can wait until after the max
        return functional.relu(maxima + biases[:, None])

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

    def _folded(self) -> tuple[list[Tensor], list[Tensor]]:
        """Taps (C, k, D) and biases (C,) of each kernel that read tokens as they come.

        Exact: nothing between projection and convolution bends, so their product is one layer.
        """
        taps = self._taps()
        # flat: a product of three dimensions takes another path where no gradient is wanted
        flat = torch.cat([each.flatten(0, 1) for each in taps])  # (C * k of all kernels, P)
        moved = (flat @ self.proj.weight).split([each.shape[0] * each.shape[1] for each in taps])
        shift = (flat @ self.proj.bias).split([len(each) for each in moved])
        return (
            [m.unflatten(0, each.shape[:2]) for m, each in zip(moved, taps, strict=True)],
            [
                b + s.view(each.shape[:2]).sum(1)
                for b, s, each in zip(self._biases(), shift, taps, strict=True)
            ],
        )

    def _taps(self) -> list[Tensor]:
        """Of each kernel, shape (C, k, P)."""
        return [conv.weight.transpose(1, 2) for conv in self._convolutions]

    def _biases(self) -> list[Tensor]:
        """Of each kernel, shape (C,)."""
        return [conv.bias for conv in self._convolutions if conv.bias is not None]

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


def _maxima(tokens: Tensor, kernels: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """`max_over_windows` of every kernel side by side, shape (N, F)."""
    return torch.cat([max_over_windows(tokens, taps, lengths) for taps in kernels], 1)


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
