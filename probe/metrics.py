"""Scores of a head: predictions and truth in, one number out; `TABLE` says how each is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Metric = Literal["spearman", "pearson", "accuracy", "balanced-accuracy", "macro-f1"]
"""Names of the metrics that choose and judge in a run; `TABLE` has more."""


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


def mcc(predicted: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """Matthews' correlation of two or more classes (Gorodkin 2004, R_K).

    As scikit-learn's `matthews_corrcoef`, but nan, where that writes 0, if the prediction or the
    truth is of one class; parameters and errors as in `accuracy`.

    Returns
    -------
    float in [-1, 1]
    """
    _check_shapes(predicted, true)
    numbers = np.union1d(predicted, true)
    named = np.array([(predicted == number).sum() for number in numbers], np.float64)
    there = np.array([(true == number).sum() for number in numbers], np.float64)
    rows = float(len(true))
    spread = (rows**2 - named @ named) * (rows**2 - there @ there)
    if spread <= 0:
        return math.nan
    return float((rows * (predicted == true).sum() - named @ there) / math.sqrt(spread))


def auroc(scores: NDArray[np.floating[Any]], true: NDArray[np.int64]) -> float:
    """Area under the ROC curve: how often a row of a class scores above a row of another.

    Equal scores count half. Of C classes the mean over classes, each against all others, as
    scikit-learn's `roc_auc_score(multi_class="ovr")`; classes that have no row, or all rows, are
    left out.

    Parameters
    ----------
    scores : float, shape (N,): of two classes, what rises with the probability of class 1; or
        shape (N, C), a column for each class
    true : int64, shape (N,): class numbers; 0 and 1 of two classes

    Returns
    -------
    float in [0, 1]
        nan where no class has both rows and others, or a score is not finite.

    Raises
    ------
    ValueError
        The numbers of rows differ.
    """
    return _mean_over_classes(_auroc, scores, true)


def auprc(scores: NDArray[np.floating[Any]], true: NDArray[np.int64]) -> float:
    """Area under the precision-recall curve, as average precision: without interpolation.

    As scikit-learn's `average_precision_score`; of C classes the mean over those that have a row.
    Parameters and errors as in `auroc`.

    Returns
    -------
    float in [0, 1]
        Scores that say nothing give about the share of class 1. nan where there is no row of a
        class (scikit-learn writes 0), or a score is not finite.
    """
    return _mean_over_classes(_average_precision, scores, true)


def r2(predicted: NDArray[np.floating[Any]], true: NDArray[np.floating[Any]]) -> float:
    """The share of the variance that is explained: 1 - sum of squared errors / sum about the mean.

    As scikit-learn's `r2_score`; parameters and errors as in `spearman`.

    Returns
    -------
    float, at most 1
        Below 0 where the mean of these rows would predict better. nan where all true values are
        equal, with fewer than two rows, or where a prediction is not finite.
    """
    _check_shapes(predicted, true)
    if not np.isfinite(predicted).all() or is_constant(true):
        return math.nan
    true = true.astype(np.float64)
    errors = np.square(true - predicted).sum()
    return float(1 - errors / np.square(true - true.mean()).sum())


def rmse(predicted: NDArray[np.floating[Any]], true: NDArray[np.floating[Any]]) -> float:
    """The root of the mean squared error, in the unit of the labels; lower is better.

    Parameters and errors as in `spearman`; nan without rows or where a prediction is not finite.
    """
    _check_shapes(predicted, true)
    if not len(true) or not np.isfinite(predicted).all():
        return math.nan
    return math.sqrt(np.square(true.astype(np.float64) - predicted).mean())


def mae(predicted: NDArray[np.floating[Any]], true: NDArray[np.floating[Any]]) -> float:
    """The mean absolute error, in the unit of the labels; lower is better.

    Parameters and errors as in `spearman`; nan without rows or where a prediction is not finite.
    """
    _check_shapes(predicted, true)
    if not len(true) or not np.isfinite(predicted).all():
        return math.nan
    return float(np.abs(true.astype(np.float64) - predicted).mean())


def kendall(predicted: NDArray[np.floating[Any]], true: NDArray[np.floating[Any]]) -> float:
    """Kendall's tau-b: pairs in the same order less pairs in the other, ties accounted for.

    As scipy's `kendalltau`; shapes, range, undefined scores and errors as in `spearman`.
    """
    if _is_undefined(predicted, true):
        return math.nan
    from scipy.stats import kendalltau

    return float(kendalltau(predicted, true).statistic)


def top_rows(rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """How many of so many rows are the top tenth: rounded down, at least 1."""
    return np.maximum(1, rows.astype(np.int64) // 10)


def ndcg(predicted: NDArray[np.floating[Any]], true: NDArray[np.floating[Any]]) -> float:
    """Normalised discounted cumulative gain of the tenth of the rows predicted highest.

    Jarvelin and Kekalainen (2002), as ProteinGym uses it (Notin et al. 2023): the gain of a row is
    its label, shifted and scaled so that the labels of these rows go from 0 to 1; the row ranked i
    counts 1 / log2(i + 1); k is a tenth of the rows (`top_rows`); divided by what the true order
    gives. Rows predicted equal share the mean of their gains (McSherry and Najork 2008), as in
    scikit-learn's `ndcg_score`. Parameters and errors as in `spearman`.

    Returns
    -------
    float in [0, 1]
        1: the highest labels stand on top, in order. A constant gives the mean gain over that of
        the top, not 0. nan where all labels are equal, with fewer than two rows, or where a value
        is not finite.
    """
    _check_shapes(predicted, true)
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()) or is_constant(true):
        return math.nan
    labels = true.astype(np.float64)
    gains = (labels - labels.min()) / (labels.max() - labels.min())
    k = int(top_rows(np.array(len(gains))))
    discounts = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    number = np.unique(-predicted.astype(np.float64), return_inverse=True)[1]
    ends = np.cumsum(np.bincount(number))
    starts = ends - np.bincount(number)
    weights = discounts[np.minimum(ends, k)] - discounts[np.minimum(starts, k)]
    mean = np.bincount(number, gains) / np.bincount(number)
    best = np.sort(gains)[::-1][:k] @ np.diff(discounts)
    return float(weights @ mean / best)


def _mean_over_classes(
    metric: Callable[[NDArray[np.float64], NDArray[np.bool_]], float],
    scores: NDArray[np.floating[Any]],
    true: NDArray[np.int64],
) -> float:
    if true.ndim != 1 or scores.ndim not in (1, 2) or len(scores) != len(true):
        raise ValueError(f"shapes differ: scores {scores.shape}, true {true.shape}")
    if not np.isfinite(scores).all():
        return math.nan
    values = scores.astype(np.float64)
    if values.ndim == 1:
        return metric(values, true == 1)
    found = [metric(column, true == number) for number, column in enumerate(values.T)]
    defined = [each for each in found if not math.isnan(each)]
    return float(np.mean(defined)) if defined else math.nan


def _auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    number = np.unique(scores, return_inverse=True)[1]
    highs = np.bincount(number, positive)
    lows = np.bincount(number, ~positive)
    pairs = highs.sum() * lows.sum()
    return float(highs @ (np.cumsum(lows) - lows / 2) / pairs) if pairs else math.nan


def _average_precision(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    if not positive.any():
        return math.nan
    number = np.unique(-scores, return_inverse=True)[1]
    highs = np.bincount(number, positive)
    precision = np.cumsum(highs) / np.cumsum(np.bincount(number))
    return float(highs @ precision / highs.sum())


def mean_over_labels(
    metric: Callable[[NDArray[Any], NDArray[Any]], float],
    predicted: NDArray[Any],
    true: NDArray[np.float64],
) -> float:
    """A metric of several 0/1 labels: its mean over the labels for which it is defined.

    As the Open Graph Benchmark scores multilabel sets (Hu et al. 2020): a row without some label
    does not count for it, and a label whose rows are all alike is left out.

    Parameters
    ----------
    metric : of one label, e.g. `auroc`
    predicted : shape (N, Q), scores or classes as the metric takes them
    true : float64, shape (N, Q): 0, 1, or nan where a row has no such label

    Returns
    -------
    nan where the metric is defined for no label

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if true.ndim != 2 or predicted.shape != true.shape:
        raise ValueError(f"shapes differ: predicted {predicted.shape}, true {true.shape}")
    found = []
    for mine, label in zip(predicted.T, true.T, strict=True):
        there = ~np.isnan(label)
        found.append(metric(mine[there], label[there].astype(np.int64)))
    defined = [each for each in found if not math.isnan(each)]
    return float(np.mean(defined)) if defined else math.nan


@dataclass(frozen=True, kw_only=True)
class MetricRule:
    """What a metric is for and how it is read."""

    function: Callable[[NDArray[Any], NDArray[Any]], float]
    """Predictions and truth of N rows in, the score out; nan where it is undefined."""
    kind: Literal["numbers", "classes"]
    """What is predicted."""
    higher_is_better: bool
    needs_scores: bool = False
    """Whether a classification gives it scores (probabilities), not class numbers."""
    in_unit: bool = False
    """Whether it is in the unit of the labels, so that other labels have other sizes of it."""


TABLE: dict[str, MetricRule] = {
    "spearman": MetricRule(function=spearman, kind="numbers", higher_is_better=True),
    "pearson": MetricRule(function=pearson, kind="numbers", higher_is_better=True),
    "kendall": MetricRule(function=kendall, kind="numbers", higher_is_better=True),
    "r2": MetricRule(function=r2, kind="numbers", higher_is_better=True),
    "rmse": MetricRule(function=rmse, kind="numbers", higher_is_better=False, in_unit=True),
    "mae": MetricRule(function=mae, kind="numbers", higher_is_better=False, in_unit=True),
    "ndcg": MetricRule(function=ndcg, kind="numbers", higher_is_better=True),
    "accuracy": MetricRule(function=accuracy, kind="classes", higher_is_better=True),
    "balanced-accuracy": MetricRule(
        function=balanced_accuracy, kind="classes", higher_is_better=True
    ),
    "macro-f1": MetricRule(function=macro_f1, kind="classes", higher_is_better=True),
    "mcc": MetricRule(function=mcc, kind="classes", higher_is_better=True),
    "auroc": MetricRule(function=auroc, kind="classes", higher_is_better=True, needs_scores=True),
    "auprc": MetricRule(function=auprc, kind="classes", higher_is_better=True, needs_scores=True),
}
"""Every metric by its name. `probe.resampled_metrics.COUNTED` has the same names."""

METRICS: dict[Metric, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    name: TABLE[name].function for name in get_args(Metric)
}
"""Those that choose and judge in a run."""
OF_NUMBERS: tuple[Metric, ...] = ("spearman", "pearson")
"""Metrics of a regression, the usual one first."""
OF_CLASSES: tuple[Metric, ...] = ("accuracy", "balanced-accuracy", "macro-f1")
"""Metrics of a classification, the usual one first."""


def oriented(name: str, score: float) -> float:
    """The score so that higher is better: the negative of an error, all others as they are."""
    return score if TABLE[name].higher_is_better else -score


def constant_prediction(
    name: str, train: NDArray[Any], rows: int, classes: int = 2
) -> NDArray[Any]:
    """What to predict for so many rows without any input: the baseline of a metric.

    Of numbers the training mean, which is the best constant for `r2` and `rmse`; for `mae` the
    median. Of classes the most frequent one; where scores are needed, the share of each class in
    train. Correlations (`spearman`, `pearson`, `kendall`, `mcc`) of a constant are nan; its `auroc`
    is 0.5.

    Parameters
    ----------
    train : float64 labels or int64 class numbers of the training rows, shape (T,), at least one
    classes : C, of a classification

    Returns
    -------
    As the metric takes predictions: shape (rows,), or (rows, C) of more than two classes' scores
    """
    rule = TABLE[name]
    if rule.kind == "numbers":
        return np.full(rows, np.median(train) if name == "mae" else np.mean(train))
    shares = np.bincount(train, minlength=classes) / len(train)
    if not rule.needs_scores:
        return np.full(rows, shares.argmax(), np.int64)
    return np.full(rows, shares[1]) if len(shares) == 2 else np.tile(shares, (rows, 1))


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
