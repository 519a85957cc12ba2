"""Metrics of many resamples at once: how often each row was drawn in, scores out.

Each class does what the function of its name in `probe.metrics` does to the rows of a resample,
without making those rows. Shape letters: N rows, S seeds of each predictor, R resamples,
V distinct values, C classes.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from probe.resampled_orders import Auroc, AveragePrecision, Kendall, Ndcg, divided

Stacks = list[NDArray[Any]]
"""Predictions of each predictor, shape (S, N)."""


class Counted(Protocol):
    """One metric of several predictors of the same rows."""

    def __init__(self, stacks: Stacks, true: NDArray[Any]) -> None: ...

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Scores of each predictor, shape (S, R), from counts of shape (R, N)."""


class Accuracy:
    """Accuracy of every seed of every backbone from how often each row was drawn."""

    def __init__(self, stacks: Stacks, true: NDArray[Any]) -> None:
        self._right = [(each == true).astype(np.float64) for each in stacks]  # (S, N) each

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        return [right @ counts.T / counts.sum(axis=1) for right in self._right]


class BalancedAccuracy:
    """The mean recall of the classes that a resample holds."""

    def __init__(self, stacks: Stacks, true: NDArray[Any]) -> None:
        numbers = np.unique(true)
        self._there = _members(true, numbers)  # (N, C)
        self._right = [(each == true).astype(np.float64) for each in stacks]

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        there = counts @ self._there  # (R, C)
        return [
            np.stack([_mean_defined((counts * seed) @ self._there, there) for seed in right])
            for right in self._right
        ]


class MacroF1:
    """The mean F1 of the classes that a resample holds or was given."""

    def __init__(self, stacks: Stacks, true: NDArray[Any]) -> None:
        numbers = np.unique(np.concatenate([true, *(each.ravel() for each in stacks)]))
        self._there = _members(true, numbers)  # (N, C)
        self._named = [[_members(seed, numbers) for seed in each] for each in stacks]

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        there = counts @ self._there  # (R, C)
        return [
            np.stack(
                [
                    _mean_defined(2 * (counts @ (named * self._there)), counts @ named + there)
                    for named in each
                ]
            )
            for each in self._named
        ]


def _members(of_row: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.float64]:
    """1 where a row is of a class: shape (N, C)."""
    members: NDArray[np.float64] = (of_row[:, None] == numbers).astype(np.float64)
    return members


def _mean_defined(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over classes of part / whole where whole is not 0: (R, C) in, (R,) out."""
    share = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    mean: NDArray[np.float64] = share.sum(axis=1) / (whole > 0).sum(axis=1)
    return mean


class _Correlation:
    """Pearson's correlation of what a resample makes of values."""

    values: ClassVar[type[_Plain | _Ranks]]

    def __init__(self, stacks: Stacks, true: NDArray[Any]) -> None:
        self._true = self.values(true)
        self._stacks = [[self.values(seed) for seed in each] for each in stacks]

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        true = self._true(counts)
        weighted = counts * true
        spread = (weighted * true).sum(axis=1)  # (R,)
        return [
            np.stack([self._score(ranks(counts), counts, weighted, spread) for ranks in each])
            for each in self._stacks
        ]

    @staticmethod
    def _score(
        ranks: NDArray[np.float64],
        counts: NDArray[np.float64],
        weighted: NDArray[np.float64],
        spread: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        scale = np.sqrt((counts * ranks * ranks).sum(axis=1) * spread)
        with np.errstate(invalid="ignore"):  # 0 / 0: one side is constant in this resample
            score: NDArray[np.float64] = (ranks * weighted).sum(axis=1) / scale
        return np.where(scale > 0, score, math.nan)


class _Plain:
    """One set of values in any resample, less their mean."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._finite = bool(np.isfinite(values).all())
        # near 0 and 1, so that squares lose nothing and a constant resample shows
        spread = values.std() if self._finite else 0.0
        centre = values.mean() if self._finite else 0.0
        self._values = (values - centre) / spread if spread > 0 else np.zeros(len(values))

    def __call__(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape (R, N); 0 up to rounding, like a constant, where a value is not finite."""
        mean = (counts @ self._values) / counts.sum(axis=1)  # (R,)
        centred: NDArray[np.float64] = self._values - mean[:, None]
        drawn = np.where(counts > 0, np.abs(centred), 0).max(axis=1)
        centred[drawn < 1e-12] = 0
        return centred


class _Ranks:
    """Mid-ranks of one set of values in any resample, less their mean."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._finite = bool(np.isfinite(values).all())
        self._order = np.argsort(values, kind="stable")
        self._number = np.unique(values, return_inverse=True)[1]  # (N,)
        ordered = values[self._order]
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # (V,)

    def __call__(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape (R, N); all 0, like a constant, where a value is not finite."""
        if not self._finite:
            return np.zeros_like(counts)
        weight = np.add.reduceat(counts[:, self._order], self._starts, axis=1)  # (R, V)
        rank = np.cumsum(weight, axis=1) - (weight - 1) / 2
        total = counts.sum(axis=1, keepdims=True)
        centred: NDArray[np.float64] = (rank - (total + 1) / 2)[:, self._number]
        return centred


class Spearman(_Correlation):
    """Spearman's correlation; equal values share their mean rank."""

    values = _Ranks


class Pearson(_Correlation):
    """Pearson's correlation."""

    values = _Plain


class Mcc:
    """Matthews' correlation; nan where a resample or its predictions are of one class."""

    def __init__(self, stacks: Stacks, true: NDArray[Any]) -> None:
        numbers = np.unique(np.concatenate([true, *(each.ravel() for each in stacks)]))
        self._there = _members(true, numbers)  # (N, C)
        self._named = [[_members(seed, numbers) for seed in each] for each in stacks]
        self._right = [(each == true).astype(np.float64) for each in stacks]

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        there = counts @ self._there  # (R, C)
        return [
            np.stack(
                [
                    self._score(counts @ named, counts @ right, there)
                    for named, right in zip(each, rights, strict=True)
                ]
            )
            for each, rights in zip(self._named, self._right, strict=True)
        ]

    @staticmethod
    def _score(
        named: NDArray[np.float64], right: NDArray[np.float64], there: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        rows = there.sum(axis=1)
        spread = (rows**2 - (named**2).sum(axis=1)) * (rows**2 - (there**2).sum(axis=1))
        return divided(rows * right - (named * there).sum(axis=1), np.sqrt(spread))


class _Error:
    """The mean over the drawn rows of some error of each."""

    def __init__(self, stacks: Stacks, true: NDArray[Any]) -> None:
        self._errors = [self.of_rows(each.astype(np.float64) - true) for each in stacks]  # (S, N)
        self._finite = [np.isfinite(each).all(axis=1) for each in self._errors]  # (S,)

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        rows = counts.sum(axis=1)
        found = []
        for errors, finite in zip(self._errors, self._finite, strict=True):
            scores = np.full((len(errors), len(counts)), math.nan)
            scores[finite] = self.of_mean(errors[finite] @ counts.T / rows)
            found.append(scores)
        return found

    @staticmethod
    def of_rows(differences: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.abs(differences)

    @staticmethod
    def of_mean(means: NDArray[np.float64]) -> NDArray[np.float64]:
        return means


class Mae(_Error):
    """The mean absolute error; nan where any prediction is not finite."""


class Rmse(_Error):
    """The root of the mean squared error; nan where any prediction is not finite."""

    @staticmethod
    def of_rows(differences: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.square(differences)

    @staticmethod
    def of_mean(means: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sqrt(means)


class R2:
    """The explained share of the variance; nan where the drawn rows have one label."""

    def __init__(self, stacks: Stacks, true: NDArray[Any]) -> None:
        self._errors = Rmse(stacks, true)
        self._true = true - true.mean()

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        rows = counts.sum(axis=1)
        centred = self._true - (counts @ self._true / rows)[:, None]  # (R, N)
        variance = (counts * np.square(centred)).sum(axis=1) / rows
        drawn = counts > 0
        high = np.where(drawn, self._true, -math.inf).max(axis=1)
        low = np.where(drawn, self._true, math.inf).min(axis=1)
        variance[high <= low] = 0
        return [
            1 - np.stack([divided(np.square(seed), variance) for seed in each])
            for each in self._errors(counts)
        ]


COUNTED: dict[str, type[Counted]] = {
    "spearman": Spearman,
    "pearson": Pearson,
    "kendall": Kendall,
    "r2": R2,
    "rmse": Rmse,
    "mae": Mae,
    "ndcg": Ndcg,
    "accuracy": Accuracy,
    "balanced-accuracy": BalancedAccuracy,
    "macro-f1": MacroF1,
    "mcc": Mcc,
    "auroc": Auroc,
    "auprc": AveragePrecision,
}
"""Every metric of `probe.metrics.TABLE` by its name."""


class ByLabel:
    """A metric of several 0/1 labels: `probe.metrics.mean_over_labels` of many resamples.

    Parameters
    ----------
    metric : a name in `COUNTED`
    stacks : of each predictor shape (S, N, Q)
    true : float64, shape (N, Q): 0, 1, or nan where a row has no such label
    """

    def __init__(self, metric: str, stacks: Stacks, true: NDArray[np.float64]) -> None:
        self._labels = []
        for at, label in enumerate(true.T):
            there = ~np.isnan(label)
            mine = [each[:, there, at] for each in stacks]
            self._labels.append((there, COUNTED[metric](mine, label[there].astype(np.int64))))
        self._seeds = [len(each) for each in stacks]

    def __call__(self, counts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Scores of each predictor, shape (S, R), from counts of shape (R, N)."""
        sums = [np.zeros((seeds, len(counts))) for seeds in self._seeds]
        defined = [np.zeros((seeds, len(counts))) for seeds in self._seeds]
        for there, counted in self._labels:
            drawn = counts[:, there]
            some = drawn.sum(axis=1) > 0
            if not some.any():
                continue
            for total, number, scores in zip(sums, defined, counted(drawn[some]), strict=True):
                total[:, some] += np.nan_to_num(scores)
                number[:, some] += ~np.isnan(scores)
        return [divided(total, number) for total, number in zip(sums, defined, strict=True)]
