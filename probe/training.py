"""Train one head: features and targets in memory in, the head of its best epoch out."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probe.batches import head_outputs, take
from probe.metrics import rank
from probe.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.loaders import Features
    from probe.heads import TextCNN


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything beside the data that decides a trained head."""

    batch_size: int = 32
    """Sequences a step."""
    learning_rate: float = 3e-4
    epochs: int = 50
    """At most; early stopping may end sooner."""
    patience: int = 10
    """Epochs without a better validation score before training stops."""
    seed: int = 0
    """Of the starting weights, the order of rows and dropout."""
    dropout: float = 0.2
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.seed < 0 or self.weight_decay < 0:
            raise ValueError("seed and weight_decay must not be negative")

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows to learn from or to be judged by, with what is true of them."""

    rows: NDArray[np.int64]
    """Positions in `Features.rows`, shape (N,)."""
    targets: NDArray[Any]
    """float64 in the task's unit, or int64 class numbers, shape (N,)."""


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curve."""

    train_loss: float
    """Mean over the training rows, dropout on: squared error of standardised targets, or cross
    entropy in nats."""
    validation_score: float
    """The task's metric; nan where it is undefined."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A head as it was after its best epoch."""

    config: TrainingConfig
    head: TextCNN
    best_epoch: int
    """Counted from 1."""
    validation_score: float
    curve: tuple[Epoch, ...]
    seconds: float


def train_head(
    features: Features,
    train: Examples,
    validation: Examples,
    objective: Objective,
    config: TrainingConfig,
) -> Trained:
    """Train a TextCNN with AdamW, one step a batch, and keep its best epoch.

    The same arguments give the same head, bit for bit, on the same machine and number of
    threads. The global random generator of torch is left as it was.

    Parameters
    ----------
    features : tokens of every row, held in memory
    train : rows that the weights follow
    validation : rows whose score ends training and picks the epoch
    objective : fitted on the training rows
    """
    import torch

    from probe.heads import TextCNN

    started = time.perf_counter()
    order = np.random.Generator(np.random.PCG64(config.seed))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        head = TextCNN(features.tokens.shape[1], objective.outputs, dropout=config.dropout)
        optimizer = torch.optim.AdamW(
            head.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        values = torch.from_numpy(objective.training_values(train.targets))
        curve: list[Epoch] = []
        best, kept = 0, head.state_dict()
        while len(curve) < config.epochs and len(curve) - best < config.patience:
            loss = _one_epoch(head, optimizer, features, train.rows, values, order, config)
            predicted = predict_rows(head, features, validation.rows, objective)
            curve.append(Epoch(loss, objective.score(predicted, validation.targets)))
            if best == 0 or rank(curve[-1].validation_score) > rank(
                curve[best - 1].validation_score
            ):
                best, kept = len(curve), copy.deepcopy(head.state_dict())
            if not math.isfinite(loss):
                break  # the weights are lost; no further step can bring them back
    head.load_state_dict(kept)
    return Trained(
        config=config,
        head=head.eval(),
        best_epoch=best,
        validation_score=curve[best - 1].validation_score,
        curve=tuple(curve),
        seconds=time.perf_counter() - started,
    )


def predict_rows(
    head: TextCNN, features: Features, rows: NDArray[np.int64], objective: Objective
) -> NDArray[Any]:
    """Predictions for rows of the features, as `Objective.decode` gives them, shape (N,).

    Each distinct input runs once, so rows that share an embedding share their prediction.
    """
    distinct, inverse = np.unique(features.rows[rows], return_inverse=True)
    outputs = head_outputs(
        head, features.tokens, features.starts[distinct], features.lengths[distinct]
    )
    return objective.decode(outputs)[inverse]


def _one_epoch(
    head: TextCNN,
    optimizer: Any,
    features: Features,
    rows: NDArray[np.int64],
    values: Tensor,
    order: np.random.Generator,
    config: TrainingConfig,
) -> float:
    """Step through all training rows in a new order; their mean loss."""
    import torch
    from torch.nn import functional

    criterion = functional.mse_loss if values.is_floating_point() else functional.cross_entropy
    head.train()
    total = 0.0
    shuffled = order.permutation(len(rows))
    for first in range(0, len(rows), config.batch_size):
        batch = shuffled[first : first + config.batch_size]
        keys = features.rows[rows[batch]]
        tokens, lengths = take(features.tokens, features.starts[keys], features.lengths[keys])
        loss = criterion(head(tokens, lengths), values[batch])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(rows)
