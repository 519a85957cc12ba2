"""A bank of heads: many heads of one kind and shape in, trained and run on the same batches.

Heads stay ordinary modules; they are stacked only inside a pass. What a head becomes does not
depend on the others of its bank, but for the last digits of products of another shape.

Shape letters: H heads, N sequences, T tokens in all, D width of a token, F features of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from probe.training import TrainingConfig


class Head(nn.Module):
    """Features of each sequence, dropout, linear: what every kind of head shares."""

    kind: ClassVar[str]
    """Name in options and in saved probes."""
    stacks: ClassVar[bool] = True
    """Whether heads run faster side by side; where not, a step takes the memory of one head."""
    by_token: ClassVar[bool] = False
    """Whether there is a row of outputs for each token, instead of each sequence."""
    dropout: nn.Dropout
    fc: nn.Linear

    @property
    def sizes(self) -> dict[str, Any]:
        """Arguments that make a head of this shape again."""
        raise NotImplementedError

    @classmethod
    def features(cls, heads: Sequence[Self], tokens: Tensor, lengths: Tensor) -> Tensor:
        """What each head sees in each sequence, shape (H, N, F); arguments as in `run_heads`.

        By token (H, T, F).
        """
        raise NotImplementedError

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """One row of outputs for each sequence, or for each token.

        Parameters
        ----------
        tokens : float32 (or the dtype of the parameters), shape (T, D)
            Tokens of all sequences, end to end.
        lengths : int64, shape (N,)
            Tokens of each sequence.

        Returns
        -------
        shape (N, outputs), by token (T, outputs)
        """
        (features,) = self.features([self], tokens, lengths)
        outputs: Tensor = self.fc(self.dropout(features))
        return outputs


def run_heads(
    heads: Sequence[Head], tokens: Tensor, lengths: Tensor, noise: Tensor | None = None
) -> Tensor:
    """Outputs of several heads of one kind and shape on the same tokens.

    Parameters
    ----------
    tokens : float32 (or the dtype of the parameters), shape (T, D)
        Tokens of all sequences, end to end.
    lengths : int64, shape (N,)
        Tokens of each sequence.
    noise : shape (H, N, F), by token (H, T, F)
        Factor of every feature, as dropout sets it; None leaves the features alone.

    Returns
    -------
    shape (H, N, outputs), by token (H, T, outputs)
    """
    features = heads[0].features(heads, tokens, lengths)
    if noise is not None:
        features = features * noise
    weights = torch.stack([head.fc.weight for head in heads])  # (H, outputs, F)
    biases = torch.stack([head.fc.bias for head in heads])  # (H, outputs)
    return torch.baddbmm(biases[:, None], features, weights.mT)


class Bank:
    """Heads in training, each with its own step size, weight decay and dropout.

    One AdamW with a group of parameters a head. A head left out of a step stays as it is.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        configs: Sequence[TrainingConfig],
        generator: Tensor,
        class_weights: Tensor | None = None,
    ) -> None:
        """Take over heads of one kind and shape.

        Parameters
        ----------
        generator : uint8, as `torch.Generator.get_state` gives it
            Where each head's draws for dropout begin. Heads of equal dropout share their draws:
            a head has the same noise alone and in any bank.
        class_weights : float32, shape (C,)
            What a row of each class counts; None for 1 each.
        """
        self._class_weights = class_weights
        self.heads = tuple(heads)
        for head, config in zip(heads, configs, strict=True):
            head.train()
            head.dropout.p = config.dropout
        self._optimizer = torch.optim.AdamW(
            [
                {
                    "params": list(head.parameters()),
                    "lr": config.learning_rate,
                    "weight_decay": config.weight_decay,
                }
                for head, config in zip(heads, configs, strict=True)
            ],
            fused=True,
        )
        self._generators = {config.dropout: torch.Generator() for config in configs}
        for each in self._generators.values():
            each.set_state(generator)

    def step(
        self, live: Sequence[int], tokens: Tensor, lengths: Tensor, values: Tensor
    ) -> list[float]:
        """One step of some heads on one batch.

        Parameters
        ----------
        live : numbers of the heads that learn
        tokens, lengths : as in `run_heads`
        values : shape (N, outputs) for the squared error, nan where there is none; or int64, shape
            (N,), for the cross entropy. By token T rows instead of N.

        Returns
        -------
        The loss of each live head before the step.
        """
        heads = [self.heads[number] for number in live]
        noise = self._noise(heads, len(values))
        there = None
        if values.is_floating_point():
            there = ~values.isnan()
            there = None if bool(there.all()) else there
        size = len(heads) if heads[0].stacks else 1
        # without gradients, not with zeros: AdamW passes over the heads that are not live
        self._optimizer.zero_grad(set_to_none=True)
        losses: list[float] = []
        for first in range(0, len(heads), size):
            part = slice(first, first + size)
            outputs = run_heads(
                heads[part], tokens, lengths, None if noise is None else noise[part]
            )
            own = torch.stack([self._loss(each, values, there) for each in outputs])
            torch.autograd.backward(own.sum())  # each loss reaches its own head alone
            losses += own.tolist()
        self._optimizer.step()
        return losses

    def _loss(self, outputs: Tensor, values: Tensor, there: Tensor | None) -> Tensor:
        """The mean over what has a value; `there` says where, None everywhere."""
        if not values.is_floating_point():
            if self._class_weights is None:
                return functional.cross_entropy(outputs, values)
            # over rows, not over their weights: a batch of rare rows counts for more
            total = functional.cross_entropy(
                outputs, values, self._class_weights.to(outputs), reduction="sum"
            )
            return total / len(values)
        if there is None:
            return functional.mse_loss(outputs, values)
        total = functional.mse_loss(outputs[there], values[there], reduction="sum")
        return total / there.sum().clamp(min=1)

    def _noise(self, heads: Sequence[Head], count: int) -> Tensor | None:
        """Factors as `nn.Dropout` draws them, shape (H, N, F); None where nothing is dropped."""
        weight = heads[0].fc.weight
        drawn: dict[float, Tensor] = {}
        for p in self._generators.keys() & {head.dropout.p for head in heads}:
            factors = torch.ones(count, weight.shape[1], dtype=weight.dtype)
            if p > 0:
                factors.bernoulli_(1 - p, generator=self._generators[p]).div_(1 - p)
            drawn[p] = factors.to(weight.device)
        if not any(drawn):
            return None
        return torch.stack([drawn[head.dropout.p] for head in heads])
