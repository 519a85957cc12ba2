"""Scores of a head: predictions and truth in, one number out; higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["spearman", "pearson", "accuracy", "balanced-accuracy", "macro-f1"]


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
    if _is_undefined(predicted, true):
        return math.nan
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, true).statistic)


def pearson(predicted: NDArray[np.floating[Any]], true: NDArray[np.floating[Any]]) -> float:
    """Pearson's correlation; shapes, range, undefined scores and errors as in `spearman`."""
    if _is_undefined(predicted, true):
        return math.nan
    from scipy.stats import pearsonr

    return float(pearsonr(predicted, true).statistic)


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


def balanced_accuracy(predicted: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """The mean over the classes that are there of the share of their rows that was recognised.

    As scikit-learn's `balanced_accuracy_score`; shapes, range and errors as in `accuracy`.
    """
    _check_shapes(predicted, true)
    recalls = [(predicted[true == number] == number).mean() for number in np.unique(true)]
    return float(np.mean(recalls)) if recalls else math.nan


def macro_f1(predicted: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """The mean over the classes that are there, or were named, of 2 TP / (2 TP + FP + FN).

    As scikit-learn's `f1_score(average="macro")`; shapes, range and errors as in `accuracy`.
    """
    _check_shapes(predicted, true)
    scores = []
    for number in np.union1d(predicted, true):
        named, there = predicted == number, true == number
        scores.append(2 * (named & there).sum() / (named.sum() + there.sum()))
    return float(np.mean(scores)) if scores else math.nan


METRICS: dict[Metric, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "spearman": spearman,
    "pearson": pearson,
    "accuracy": accuracy,
    "balanced-accuracy": balanced_accuracy,
    "macro-f1": macro_f1,
}
OF_NUMBERS: tuple[Metric, ...] = ("spearman", "pearson")
"""Metrics of a regression, the usual one first."""
OF_CLASSES: tuple[Metric, ...] = ("accuracy", "balanced-accuracy", "macro-f1")
"""Metrics of a classification, the usual one first."""


def rank(score: float) -> float:
    """The score as selection compares it: an undefined score (nan) is worse than any other."""
    return -math.inf if math.isnan(score) else score


def is_constant(values: NDArray[Any]) -> bool:
    """Whether all values are equal, or there are none."""
    return bool((values == values[:1]).all())


def _is_undefined(predicted: NDArray[Any], true: NDArray[Any]) -> bool:
    """Whether a correlation has no value."""
    _check_shapes(predicted, true)
    return not np.isfinite(predicted).all() or is_constant(predicted) or is_constant(true)


def _check_shapes(predicted: NDArray[Any], true: NDArray[Any]) -> None:
    if predicted.shape != true.shape or true.ndim != 1:
        raise ValueError(f"shapes differ: predicted {predicted.shape}, true {true.shape}")
