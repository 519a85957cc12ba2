"""Linear heads on pooled tokens: packed tokens in, one row of outputs a sequence out.

Shape letters: H heads, N sequences, T tokens in all, D width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from probe.bank import Head


class LinearHead(Head):
    """The mean over tokens, standardised, linear. Fitted in `probe.linear`, not trained in steps.

    The mean of a sequence without tokens is 0.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.0)
        self.fc = nn.Linear(width, outputs)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    @property
    def sizes(self) -> dict[str, Any]:
        """Arguments that make a head of this shape again."""
        return {"width": self.fc.in_features, "outputs": self.fc.out_features}

    @classmethod
    def features(cls, heads: Sequence[Self], tokens: Tensor, lengths: Tensor) -> Tensor:
        """Standardised means: shape (H, N, D)."""
        row = torch.arange(len(lengths), device=tokens.device).repeat_interleave(lengths)
        sums = tokens.new_zeros(len(lengths), tokens.shape[1]).index_add_(0, row, tokens)
        means = sums / lengths.clamp(min=1)[:, None]
        return torch.stack([(means - head.centre) / head.spread for head in heads])


class Ridge(LinearHead):
    """Ridge regression: the squared error and the squared weights."""

    kind = "ridge"


class Logistic(LinearHead):
    """Multinomial logistic regression: the cross entropy and the squared weights."""

    kind = "logistic"
