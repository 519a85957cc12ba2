"""What a head is trained towards: targets to training values, its outputs back to predictions.

Shape letters: N rows, Q outputs, P positions, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from probe.metrics import METRICS, is_constant
from probe.tasks import LARGEST, Task

SMALLEST_SPREAD = 1 / LARGEST


@dataclass(frozen=True)
class Scale:
    """Mean and spread of the training targets, in the task's unit."""

    mean: float | tuple[float, ...]
    """One for all, or one for each output."""
    std: float | tuple[float, ...]
    """Standard deviation with N in the denominator; positive."""

    @classmethod
    def fit(cls, targets: NDArray[np.float64]) -> Scale:
        """One scale of all training targets that are there; they are not all equal."""
        return cls(float(np.nanmean(targets)), float(np.nanstd(targets)))

    @classmethod
    def fit_each(cls, targets: NDArray[np.float64]) -> Scale:
        """A scale of each output, targets of shape (N, Q), nan where there is none.

        An output without labels takes the mean of all, one whose labels are equal the spread 1.
        """
        mean, std = [], []
        for column in targets.T:
            there = column[~np.isnan(column)]
            all_or_own = there if len(there) else targets[~np.isnan(targets)]
            mean.append(float(all_or_own.mean()))
            std.append(1.0 if is_constant(all_or_own) else float(all_or_own.std()))
        return cls(tuple(mean), tuple(std))

    @property
    def outputs(self) -> int:
        """How many outputs have a scale of their own."""
        return 1 if isinstance(self.mean, float) else len(self.mean)

    @property
    def is_usable(self) -> bool:
        """Whether every finite output has a finite prediction, and the spread is positive."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        if mean.shape != std.shape:
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            furthest = np.abs(mean) + std * np.finfo(np.float32).max
        return bool(np.isfinite(furthest).all() and (std > 0).all())

    def standardise(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Targets with the training rows at mean 0 and standard deviation 1."""
        mean, std = (np.asarray(each, np.float64) for each in (self.mean, self.std))
        standard: NDArray[np.float64] = (targets - mean) / std
        return standard

    def restore(self, outputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """What a head gave, back in the task's unit."""
        mean, std = (np.asarray(each, np.float64) for each in (self.mean, self.std))
        restored: NDArray[np.float64] = outputs.astype(np.float64) * std + mean
        return restored


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A task with what was learnt from its training rows: classes or scale."""

    task: Task
    classes: tuple[str, ...]
    """Class names by number; empty for a regression."""
    scale: Scale | None
    """Of numbers, one for all positions of a task per position: scaled one by one, the few with
    outliers would hardly count. None for a classification."""
    weights: tuple[float, ...] | None = None
    """Of a balanced classification: what a row of each class counts; 1 on average over the
    training rows."""
    positions: int | None = None
    """Of a task per position: P, the longest list of labels."""
    by_token: bool = False
    """Of a task per position: the head gives one number for each token, not P numbers for each
    sequence."""

    @classmethod
    def fit(
        cls, task: Task, classes: tuple[str, ...], train: NDArray[Any], *, by_token: bool = False
    ) -> Objective:
        """The objective of a task, from the targets of the training rows alone.

        Parameters
        ----------
        by_token : of a task per position: the head gives one number for each token

        Raises
        ------
        BadInput
            All training targets are equal, so large that their spread has no value, or differ by
            less than `SMALLEST_SPREAD`.
        """
        columns = train.T if task.kind == "regression" and train.ndim == 2 else [train]
        if any(is_constant(each if classes else each[~np.isnan(each)]) for each in columns):
            raise BadInput(
                "All training labels are equal: there is nothing to learn.",
                "Choose another label column, other filters or another seed.",
            )
        if task.kind == "classification":
            weights = _class_weights(train, len(classes)) if task.balance else None
            return cls(task=task, classes=classes, scale=None, weights=weights)
        each = task.kind == "regression" and train.ndim == 2
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            scale = Scale.fit_each(train) if each else Scale.fit(train)
        # equal labels were refused above, so a spread of 0 is one that float64 cannot hold
        if np.isfinite(scale.std).all() and np.min(scale.std) < SMALLEST_SPREAD:
            raise BadInput(
                "The training labels differ by too little to compute with.",
                "Write them in another unit, or choose other filters or another seed.",
            )
        if not scale.is_usable:
            raise BadInput(
                f"The training labels of {task.unit} are too large for a mean and a spread.",
                "Correct the labels, give them in another unit, or choose a --transform.",
            )
        return cls(
            task=task,
            classes=classes,
            scale=scale,
            positions=train.shape[1] if task.kind == "per-position" else None,
            by_token=by_token,
        )

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for each sequence, or for each token."""
        if self.scale is None:
            return len(self.classes)
        if self.positions is not None:
            return 1 if self.by_token else self.positions
        return self.scale.outputs

    def training_values(self, targets: NDArray[Any]) -> NDArray[Any]:
        """What the loss compares with.

        Returns
        -------
        Standardised float32, shape (N, 1), (N, Q) or (N, P), nan where there is no label; or
        int64 class numbers, shape (N,)
        """
        if self.scale is None:
            return targets
        values = self.scale.standardise(targets).astype(np.float32)
        return values[:, None] if values.ndim == 1 else values

    def decode(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """Predictions from a head's outputs, shape (N, outputs), or (N, L) by token.

        Returns
        -------
        float64 in the task's unit, shape (N,), or (N, Q) of several outputs, or (N, P) per
        position; or int64 class numbers, shape (N,)
        """
        if self.scale is None:
            numbers: NDArray[np.int64] = outputs.argmax(axis=1)
            return numbers
        if self.task.kind == "regression" and self.scale.outputs == 1:
            return self.scale.restore(outputs[:, 0])
        return self.scale.restore(outputs)

    def score(self, predicted: NDArray[Any], targets: NDArray[Any]) -> float:
        """The task's metric, the mean of several outputs; nan where it is undefined."""
        return float(np.mean(self.scores(predicted, targets)))

    def scores(self, predicted: NDArray[Any], targets: NDArray[Any]) -> list[float]:
        """The task's metric of each output."""
        metric = METRICS[self.task.metric]
        return [metric(mine, true) for mine, true in self.outputs_of(predicted, targets)]

    def outputs_of(
        self, predicted: NDArray[Any], targets: NDArray[Any]
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """What is compared: predictions and targets of each output.

        Positions that have a label stand behind each other, row by row, as one output.

        Parameters
        ----------
        predicted : as `decode` gives them; (S, N, ...) with a row for each of several seeds
        targets : as in `Labels.targets`

        Returns
        -------
        Of each output shapes (M,), or (S, M), and (M,)
        """
        if self.task.kind == "per-position":
            there = ~np.isnan(targets)
            return [(predicted[..., there], targets[there])]
        if targets.ndim == 1:
            return [(predicted, targets)]
        return [(predicted[..., at], targets[:, at]) for at in range(targets.shape[1])]

    def constant(self, train: NDArray[Any]) -> Any:
        """What to predict without any input.

        Returns
        -------
        The training mean, float; shape (Q,) or (P,) of several outputs or positions; or the most
        frequent class, int
        """
        if self.scale is None:
            return int(np.bincount(train).argmax())
        if train.ndim == 1:
            return self.scale.mean
        return np.array(Scale.fit_each(train).mean)

    def show(self, predictions: NDArray[Any]) -> list[Any]:
        """Predictions or targets as people read them.

        Returns
        -------
        Of each row a number in the task's unit, a list of them without nan, or a class name
        """
        if self.scale is None:
            return [self.classes[number] for number in predictions.tolist()]
        if predictions.ndim == 1:
            return [float(value) for value in predictions]
        return [row[~np.isnan(row)].tolist() for row in predictions]


def _class_weights(train: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Inverse frequencies; 1 for a class without training rows, which nothing weighs."""
    counts = np.bincount(train, minlength=classes)
    even = len(train) / np.count_nonzero(counts)
    return tuple(even / count if count else 1.0 for count in counts.tolist())
