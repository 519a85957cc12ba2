"""Predictions of one head for the test rows of every split: arrays in, columns to score out.

Shape letters: K splits, S trainings, n test rows of a split, P positions, Q outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.judging.design import Design

Column = tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.int64]]
"""Of one split and output: predictions of each head, shape (S, M); truth, shape (M,); and the test
rows to which these M values belong, as positions in `Design.groups`."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What one backbone's heads, or one baseline, predict."""

    name: str
    splits: tuple[NDArray[Any], ...]
    """Of each split float64 or int64 class numbers, shape (S, n), (S, n, P), (S, n, Q) or
    (S, n, P, Q); S may differ between heads."""
    has_seeds: bool = True
    """Whether another training would predict something else; not so for ridge and logistic."""

    @property
    def trainings(self) -> int:
        """S: trainings in each split."""
        return len(self.splits[0])


def check(design: Design, heads: list[Predicted], truth: NDArray[Any]) -> None:
    """Raise ValueError where predictions, truth and design do not fit each other."""
    if not heads or len({each.name for each in heads}) < len(heads):
        raise ValueError(f"names must be distinct: {[each.name for each in heads]}")
    rest = (design.positions,) * (design.positions > 1) + (len(design.outputs),) * (
        len(design.outputs) > 1
    )
    if truth.shape != (len(design.groups), *rest):
        raise ValueError(f"truth of {truth.shape}, expected {(len(design.groups), *rest)}")
    for head in heads:
        if len(head.splits) != len(design.tests):
            raise ValueError(f"{head.name}: {len(head.splits)} splits of {len(design.tests)}")
        for mine, test in zip(head.splits, design.tests, strict=True):
            if mine.shape != (head.trainings, len(test), *rest) or not head.trainings:
                raise ValueError(
                    f"{head.name}: predictions of {mine.shape},"
                    f" expected {(head.trainings, len(test), *rest)}"
                )
        if not head.has_seeds and head.trainings > 1:
            raise ValueError(f"{head.name} has no seeds, but {head.trainings} trainings")


def columns(
    design: Design, heads: list[Predicted], truth: NDArray[Any], split: int
) -> list[Column]:
    """What one split scores, output by output.

    Labels of all positions of an output stand behind each other; a value without a label (nan)
    is left out. Outputs are never put together: each has a unit of its own.
    """
    test = design.tests[split]
    shape = (len(test), design.positions, len(design.outputs))
    true = truth[test].reshape(shape)
    mine = [head.splits[split].reshape(head.trainings, *shape) for head in heads]
    rows = np.broadcast_to(test[:, None], shape[:2])
    found: list[Column] = []
    for at in range(len(design.outputs)):
        column = true[..., at]
        there = ~np.isnan(column) if column.dtype.kind == "f" else np.ones(shape[:2], np.bool_)
        found.append(([each[..., at][:, there] for each in mine], column[there], rows[there]))
    return found
