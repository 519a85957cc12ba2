"""Train heads: features and targets in, each head as after its best epoch out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from probe.objective import Objective
from probe.stream import Stream, Trained

if TYPE_CHECKING:
    from embedstore.loaders import FeatureSet

HeadKind = Literal["textcnn", "lstm", "textcnn-position", "ridge", "logistic"]


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
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.seed < 0 or self.weight_decay < 0:
            raise ValueError("seed and weight_decay must not be negative")

    def __str__(self) -> str:
        """What a grid varies."""
        return f"batch size {self.batch_size}, learning rate {self.learning_rate:g}"

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Everything beside the data that decides a linear head; nothing in it is drawn at random."""

    penalty: float
    """Of the squared weights, where the loss is the mean over the training rows."""

    def __post_init__(self) -> None:
        if not 0 < self.penalty < math.inf:
            raise ValueError(f"penalty must be positive and finite, got {self.penalty}")

    def __str__(self) -> str:
        """What a search varies."""
        return f"penalty {self.penalty:g}"

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self)


Config = TrainingConfig | LinearConfig
LINEAR: tuple[HeadKind, ...] = ("ridge", "logistic")
"""Heads on the mean over tokens, which are fitted and not trained in epochs."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows to learn from or to be judged by, with what is true of them."""

    rows: NDArray[np.int64]
    """Positions in `FeatureSet.rows`, shape (N,)."""
    targets: NDArray[Any]
    """As in `probe.tasks.Labels`: shape (N,), or (N, Q) of several outputs or positions."""


def train_head(
    features: FeatureSet,
    train: Examples,
    validation: Examples,
    objective: Objective,
    config: TrainingConfig,
    kind: HeadKind = "textcnn",
) -> Trained:
    """Train one head: `train_heads` of a single configuration.

    Where `diverged` of the result is set, its head is of no use.
    """
    (trained,) = train_heads(features, train, validation, objective, [config], kind)
    return trained


def train_heads(
    features: FeatureSet,
    train: Examples,
    validation: Examples,
    objective: Objective,
    configs: Sequence[TrainingConfig],
    kind: HeadKind = "textcnn",
) -> list[Trained]:
    """Train a head of each configuration with AdamW, one step a batch, and keep its best epoch.

    Configurations of one batch size and seed read the same batches, so they train together; what
    each becomes is what it becomes alone, within the rounding of float32. The same arguments give
    the same heads, bit for bit, on the same machine and number of threads. The global random
    generator of torch is left as it was.

    Parameters
    ----------
    features : tokens of every row, wherever they are; heads are trained on their device
    train : rows that the weights follow
    validation : rows whose score ends training and picks the epoch
    objective : fitted on the training rows

    Returns
    -------
    In the order of the configurations.
    """
    trained: dict[int, Trained] = {}
    for numbers in share_batches(configs):
        stream = Stream(
            features,
            train,
            validation,
            objective,
            [configs[number] for number in numbers],
            kind,
        )
        stream.advance()
        trained |= zip(numbers, stream.trained(), strict=True)
    return [trained[number] for number in range(len(configs))]


def seedless(config: Config) -> Config:
    """What configurations that differ in nothing but the seed have in common."""
    return replace(config, seed=0) if isinstance(config, TrainingConfig) else config


def share_batches(configs: Sequence[TrainingConfig]) -> list[list[int]]:
    """Numbers of the configurations that read the same batches: of one batch size and one seed."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, config in enumerate(configs):
        groups.setdefault((config.batch_size, config.seed), []).append(number)
    return list(groups.values())
