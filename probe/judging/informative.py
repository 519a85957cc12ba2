"""How many groups of test rows say something about a score or a difference, and whether enough do.

A mean of G independent parts of like size has G - 1 degrees of freedom. Where few parts carry all
of the noise there are fewer, and below `FEWEST_GROUPS` no verdict is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.judging.design import Design
from probe.judging.predicted import Predicted
from probe.metrics import OF_CLASSES, Metric

FEWEST_GROUPS = 10
"""Groups below which a verdict is withheld."""


def informative_groups(
    design: Design, heads: list[Predicted], truth: NDArray[Any], metric: Metric
) -> tuple[float, str | None]:
    """Groups that tell something of one head's score, or of the difference of two.

    Returns
    -------
    Their number, which may be a fraction, and why it is too small for a verdict, or None
    """
    found = design.effective_groups
    if found < FEWEST_GROUPS:
        return found, (
            f"The test rows tell as much as {found:.1f} independent ones;"
            f" fewer than {FEWEST_GROUPS} say too little."
        )
    if metric == "pearson":
        carrying = _groups_that_carry(design, truth)
        if carrying < FEWEST_GROUPS:
            return carrying, (
                f"Labels are so skewed that {carrying:.1f} groups of test rows carry Pearson's"
                " correlation. Use Spearman's, or transform the labels."
            )
        found = min(found, carrying)
    if metric in OF_CLASSES and len(heads) == 2:
        differing = _groups_that_differ(design, heads[0], heads[1], truth, metric)
        if 0 < differing < FEWEST_GROUPS:  # 0: nothing to test, and p is 1
            return differing, (
                f"They do not score alike in {differing} groups of test rows only;"
                f" fewer than {FEWEST_GROUPS} say too little."
            )
        found = min(found, differing)
    return found, None


def _groups_that_carry(design: Design, truth: NDArray[Any]) -> float:
    """Kish's effective number of groups by their squared deviations; the least of all outputs.

    Of normal labels a third of the rows, of log-normal ones a few whatever their number.
    """
    columns = truth.reshape(len(truth), design.positions, len(design.outputs))
    square = (columns - np.nanmean(columns, axis=(0, 1))) ** 2
    of_row = np.nansum(square, axis=1)  # (N, Q)
    sums = np.stack([np.bincount(design.member, weights=each) for each in of_row.T])
    with np.errstate(invalid="ignore"):  # 0 / 0: equal labels have no correlation anyway
        carrying = sums.sum(axis=1) ** 2 / (sums**2).sum(axis=1)
    return float(np.nanmin(carrying, initial=len(truth)))


def _groups_that_differ(
    design: Design, first: Predicted, second: Predicted, truth: NDArray[Any], metric: Metric
) -> int:
    """Groups with a test row that the two do not score alike.

    For accuracy these are rows that one gets right more often than the other; for other metrics of
    classes, rows of which they predict other classes.
    """
    found: set[int] = set()
    for test, mine, theirs in zip(design.tests, first.splits, second.splits, strict=True):
        true = truth[test]
        classes = [true] if metric == "accuracy" else np.unique(np.r_[mine.ravel(), theirs.ravel()])
        for each in classes:
            differs = (mine == each).mean(axis=0) != (theirs == each).mean(axis=0)
            rows = differs.reshape(len(test), -1).any(axis=1)
            found.update(design.member[test[rows]].tolist())
    return len(found)
