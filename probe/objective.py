"""What a head is trained towards: targets to training values, its outputs back to predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from probe.metrics import METRICS, is_constant
from probe.tasks import Task


@dataclass(frozen=True)
class Scale:
    """Mean and spread of the training targets, in the task's unit."""

    mean: float
    std: float
    """Standard deviation with N in the denominator; positive."""

    @classmethod
    def fit(cls, targets: NDArray[np.float64]) -> Scale:
        """The scale of training targets, float64, shape (N,), that are not all equal."""
        return cls(float(targets.mean()), float(targets.std()))

    def standardise(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Targets with the training rows at mean 0 and standard deviation 1."""
        return (targets - self.mean) / self.std

    def restore(self, outputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """What a head gave, back in the task's unit."""
        return outputs.astype(np.float64) * self.std + self.mean


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A task with what was learnt from its training rows: classes or scale."""

    task: Task
    classes: tuple[str, ...]
    """Class names by number; empty for a regression."""
    scale: Scale | None
    """Of a regression; None for a classification."""

    @classmethod
    def fit(cls, task: Task, classes: tuple[str, ...], train: NDArray[Any]) -> Objective:
        """The objective of a task, from the targets of the training rows alone.

        Raises
        ------
        BadInput
            All training targets are equal.
        """
        if is_constant(train):
            raise BadInput(
                "All training labels are equal: there is nothing to learn.",
                "Choose another label column, other filters or another seed.",
            )
        scale = Scale.fit(train) if task.kind == "regression" else None
        return cls(task=task, classes=classes, scale=scale)

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for each sequence: 1, or one a class."""
        return 1 if self.scale is not None else len(self.classes)

    def training_values(self, targets: NDArray[Any]) -> NDArray[Any]:
        """What the loss compares with: standardised float32 (N, 1), or int64 class numbers (N,)."""
        if self.scale is None:
            return targets
        return self.scale.standardise(targets).astype(np.float32)[:, None]

    def decode(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """Predictions from a head's outputs, shape (N, outputs).

        Returns
        -------
        float64, shape (N,), in the task's unit; or int64 class numbers, shape (N,)
        """
        if self.scale is None:
            numbers: NDArray[np.int64] = outputs.argmax(axis=1)
            return numbers
        return self.scale.restore(outputs[:, 0])

    def score(self, predicted: NDArray[Any], targets: NDArray[Any]) -> float:
        """The task's metric; nan where it is undefined."""
        return METRICS[self.task.metric](predicted, targets)

    def constant(self, train: NDArray[Any]) -> float | int:
        """What to predict without any input: the training mean, or the most frequent class."""
        return int(np.bincount(train).argmax()) if self.scale is None else self.scale.mean

    def show(self, predictions: NDArray[Any]) -> list[float] | list[str]:
        """Predictions or targets as people read them: numbers in the task's unit, or names."""
        if self.scale is None:
            return [self.classes[number] for number in predictions.tolist()]
        return [float(value) for value in predictions]
