"""Scores of a head: predictions and truth in, one number out; higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["spearman", "accuracy"]


def spearman(predicted: NDArray[np.floating[Any]], true: NDArray[np.floating[Any]]) -> float:
    """Spearman's rank correlation; equal values share their mean rank.

    Parameters
    ----------
    predicted, true : float, shape (N,)

    Returns
    -------
    float in [-1, 1]
        nan where the correlation is undefined: one side is constant, fewer than two rows, or a
        prediction is not finite (the training diverged).

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_shapes(predicted, true)
    if not np.isfinite(predicted).all() or is_constant(predicted) or is_constant(true):
        return math.nan
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, true).statistic)


def accuracy(predicted: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """Fraction of rows whose predicted class is the true one.

    Parameters
    ----------
    predicted, true : int64, shape (N,)
        Class numbers.

    Returns
    -------
    float in [0, 1]
        nan without rows.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    _check_shapes(predicted, true)
    return float((predicted == true).mean()) if len(true) else math.nan


METRICS: dict[Metric, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "spearman": spearman,
    "accuracy": accuracy,
}


def rank(score: float) -> float:
    """The score as selection compares it: an undefined score (nan) is worse than any other."""
    return -math.inf if math.isnan(score) else score


def is_constant(values: NDArray[Any]) -> bool:
    """Whether all values are equal, or there are none."""
    return bool((values == values[:1]).all())


def _check_shapes(predicted: NDArray[Any], true: NDArray[Any]) -> None:
    if predicted.shape != true.shape or true.ndim != 1:
        raise ValueError(f"shapes differ: predicted {predicted.shape}, true {true.shape}")
