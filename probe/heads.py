"""The TextCNN heads: packed tokens in, a row of outputs a sequence or a token out. And all by name.

Shape letters: H heads, N sequences, T tokens in all, D width of a token, P projection,
C channels, k width of a kernel, F features (C of all kernels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from probe.bank import Head
from probe.linear_heads import Logistic, Ridge
from probe.lstm import LSTM
from probe.windows import max_over_windows, pad_ends, pad_short, window_scores


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
        taps = self._channel_taps
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

    @property
    def _channel_taps(self) -> int:
        """Taps of all kernels and channels."""
        convolutions = zip(self._convolutions, self.kernels, strict=True)
        return sum(conv.out_channels * k for conv, k in convolutions)

    def _taps(self) -> list[Tensor]:
        """Of each kernel, shape (C, k, P)."""
        return [conv.weight.transpose(1, 2) for conv in self._convolutions]

    def _biases(self) -> list[Tensor]:
        """Of each kernel, shape (C,)."""
        return [conv.bias for conv in self._convolutions if conv.bias is not None]

    @property
    def _convolutions(self) -> list[nn.Conv1d]:
        return [conv for conv in self.convs if isinstance(conv, nn.Conv1d)]


def _maxima(tokens: Tensor, kernels: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """`max_over_windows` of every kernel side by side, shape (N, F)."""
    return torch.cat([max_over_windows(tokens, taps, lengths) for taps in kernels], 1)


class PositionTextCNN(TextCNN):
    """The TextCNN without its maximum: a row of outputs for each token, from the window around it.

    Convolutions keep the length, as `padding="same"` of `torch.nn.Conv1d`: the window of width k
    of a token begins (k - 1) // 2 tokens before it. Beyond the ends of a sequence lie zero tokens,
    before the projection.
    """

    kind = "textcnn-position"
    by_token = True

    @classmethod
    def features(cls, heads: Sequence[Self], tokens: Tensor, lengths: Tensor) -> Tensor:
        """What every channel makes of the window around each token: shape (H, T, F)."""
        widest = max(heads[0].kernels)
        tokens, rows = pad_ends(tokens, lengths, (widest - 1) // 2, widest // 2)
        if heads[0].folds(len(tokens)):
            layers = [head._folded() for head in heads]
            kernels = [torch.cat(taps) for taps in zip(*(taps for taps, _ in layers), strict=True)]
            wide = [_around(tokens, taps, rows) for taps in kernels]  # (T, H * C) each
            scores = torch.cat([each.unflatten(1, (len(heads), -1)) for each in wide], 2)
            scores = scores.transpose(0, 1)  # (H, T, F)
        else:
            layers = [(head._taps(), head._biases()) for head in heads]
            alone = []
            for head, (kernels, _) in zip(heads, layers, strict=True):
                states = head.proj(tokens)
                alone.append(torch.cat([_around(states, taps, rows) for taps in kernels], 1))
            scores = torch.stack(alone)
        biases = torch.stack([torch.cat(biases) for _, biases in layers])  # (H, F)
        return functional.relu(scores + biases[:, None])

    def folds(self, tokens: int) -> bool:
        """Whether folding takes fewer multiplications; here every window has a gradient."""
        wide, projection, taps = self.proj.in_features, self.proj.out_features, self._channel_taps
        if torch.is_grad_enabled():
            apart = tokens * projection * (2 * wide + 3 * taps)
            folded = 2 * tokens * wide * taps + 3 * taps * projection * wide
        else:
            apart = tokens * projection * (wide + taps)
            folded = tokens * wide * taps + taps * projection * wide
        return folded < apart


def _around(tokens: Tensor, taps: Tensor, rows: Tensor) -> Tensor:
    """Scores of the windows around some rows of padded tokens, shape (rows, C)."""
    return window_scores(tokens, taps)[rows - (taps.shape[1] - 1) // 2]


HEADS: dict[str, type[Head]] = {
    each.kind: each for each in (TextCNN, LSTM, PositionTextCNN, Ridge, Logistic)
}
"""Every kind of head by its name; `probe.training.HeadKind` lists the same names."""


def make_head(kind: str, width: int, outputs: int) -> Head:
    """A new head with the sizes of the paper, from the global generator of torch."""
    make: Callable[..., Head] = HEADS[kind]
    return make(width=width, outputs=outputs)
