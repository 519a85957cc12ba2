"""How well any head could do: targets and which rows share an input in, best scores out.

A head sees the input alone, so rows with one input get one prediction, whatever their labels. What
labels vary within identical inputs is out of reach of every head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probe.documents import or_none
from probe.metrics import is_constant

FEWEST_REPEATS = 30
"""Rows beyond the first of their input from which noise between repeats is estimated."""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The best score of a head that sees one view; nan where the score is undefined."""

    metric: Literal["r2", "spearman", "accuracy"]
    bound: float
    """No function of the input scores more on these very rows: proven, not estimated. Rows with
    an input of their own count as predictable, so it is generous where few inputs repeat."""
    expected: float
    """Estimate for new rows, if inputs that stand once are as noisy as those that repeat; nan
    where fewer than `FEWEST_REPEATS` rows repeat an input, and for an accuracy."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name; None for nan."""
        return {
            "metric": self.metric,
            "bound": or_none(self.bound),
            "expected": or_none(self.expected),
        }


def regression_ceilings(
    targets: NDArray[np.float64], inputs: NDArray[np.int64]
) -> tuple[Ceiling, ...]:
    """R2 and Spearman that no function of the input can pass.

    R2: the mean label of each input is the best prediction, so the bound is the correlation ratio
    eta squared (Pearson 1905), 1 - SS_within / SS_total. Spearman is Pearson's correlation of two
    sets of ranks, one of them a function of the input; over all functions of the input the
    correlation with the labels' ranks is at most eta of these ranks. The expected ceilings put
    Kelley's epsilon squared (1935), 1 - MS_within / MS_total, in the place of eta squared: it does
    not count the label itself among what its input predicts.

    Parameters
    ----------
    targets : float64, shape (N,)
    inputs : int64, shape (N,)
        Which rows share an input: equal numbers.
    """
    from scipy.stats import rankdata

    bound, expected = _explained(targets, inputs)
    of_ranks, expected_of_ranks = _explained(rankdata(targets), inputs)
    return (
        Ceiling(metric="r2", bound=bound, expected=expected),
        Ceiling(
            metric="spearman", bound=math.sqrt(of_ranks), expected=math.sqrt(expected_of_ranks)
        ),
    )


def classification_ceilings(
    targets: NDArray[np.int64],
    inputs: NDArray[np.int64],
    known: NDArray[np.bool_] | None = None,
) -> tuple[Ceiling, ...]:
    """Accuracy of naming the most frequent class of each input, of the classes that train has.

    Parameters
    ----------
    targets : int64 class numbers, shape (N,)
    inputs : int64, shape (N,)
        Which rows share an input: equal numbers.
    known : bool, shape (N,)
        False where no training row has the row's class, so that no head can be right. Default:
        True.
    """
    if len(targets) == 0:
        return (Ceiling(metric="accuracy", bound=math.nan, expected=math.nan),)
    right = 0
    if known is None or known.any():
        possible = np.stack([inputs, targets])[:, slice(None) if known is None else known]
        pairs, counts = np.unique(possible, axis=1, return_counts=True)
        starts = np.flatnonzero(np.diff(pairs[0], prepend=pairs[0, 0] - 1))
        right = np.maximum.reduceat(counts, starts).sum()
    return (Ceiling(metric="accuracy", bound=float(right / len(targets)), expected=math.nan),)


def _explained(values: NDArray[np.float64], inputs: NDArray[np.int64]) -> tuple[float, float]:
    """Eta squared and epsilon squared, both in [0, 1]; nan where undefined."""
    if is_constant(values):
        return math.nan, math.nan
    distinct, number = np.unique(inputs, return_inverse=True)
    means = np.bincount(number, values) / np.bincount(number)  # (K,)
    within = float(np.square(values - means[number]).sum())
    total = float(np.square(values - values.mean()).sum())
    repeats = len(values) - len(distinct)
    epsilon = math.nan
    if repeats >= FEWEST_REPEATS:
        epsilon = 1 - (within / repeats) / (total / (len(values) - 1))
    # the clip takes away what rounding put beyond the ends; a negative estimate means none at all
    return float(np.clip(1 - within / total, 0, 1)), float(np.clip(epsilon, 0, 1))
