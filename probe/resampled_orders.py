"""Metrics by order of many resamples at once: how often each row was drawn in, scores out.

Each class does what the function of its name in `probe.metrics` does to the rows of a resample,
without making or sorting these rows. Where any score or label of a predictor is not finite, all its
resamples are undefined. Shape letters: N rows, S seeds of each predictor, R resamples, V distinct
values, C classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.metrics import top_rows

Floats = NDArray[np.float64]


class _Ties:
    """Rows in the order of a value, equal ones together."""

    def __init__(self, *keys: NDArray[Any]) -> None:
        self.order = np.lexsort(keys[::-1])  # by the first key, then the second
        ordered = [key[self.order] for key in keys]
        new = np.ones(len(self.order), np.bool_)
        new[1:] = np.any([key[1:] != key[:-1] for key in ordered], axis=0)
        self._starts = np.flatnonzero(new)

    def weigh(self, counts: Floats) -> Floats:
        """How much of each value was drawn: (R, N) in, (R, V) out."""
        weighed: Floats = np.add.reduceat(counts[:, self.order], self._starts, axis=1)
        return weighed

    def pairs(self, counts: Floats) -> Floats:
        """Pairs of drawn rows with equal values: shape (R,)."""
        weights = self.weigh(counts)
        pairs: Floats = (weights * (weights - 1)).sum(axis=1) / 2
        return pairs


class _ByClass:
    """The mean over classes of a metric of scores, each class against all others."""

    falling = False

    def __init__(self, stacks: list[NDArray[Any]], true: NDArray[Any]) -> None:
        # a predictor's scores: (S, N) of class 1, or (S, N, C)
        self._columns = [[self._prepared(seed, true) for seed in each] for each in stacks]

    def _prepared(
        self, scores: NDArray[Any], true: NDArray[Any]
    ) -> list[tuple[_Ties, NDArray[np.bool_]]] | None:
        if not np.isfinite(scores).all():
            return None
        sign = -1.0 if self.falling else 1.0
        if scores.ndim == 1:
            return [(_Ties(sign * scores), true == 1)]
        return [(_Ties(sign * each), true == number) for number, each in enumerate(scores.T)]

    def __call__(self, counts: Floats) -> list[Floats]:
        return [np.stack([self._mean(seed, counts) for seed in each]) for each in self._columns]

    def _mean(
        self, columns: list[tuple[_Ties, NDArray[np.bool_]]] | None, counts: Floats
    ) -> Floats:
        total, defined = np.zeros(len(counts)), np.zeros(len(counts))
        for ties, positive in columns or ():
            score = self._score(ties.weigh(counts * positive), ties.weigh(counts))
            total += np.nan_to_num(score)
            defined += ~np.isnan(score)
        return divided(total, defined)

    def _score(self, highs: Floats, weights: Floats) -> Floats:
        raise NotImplementedError


class Auroc(_ByClass):
    """Area under the ROC curve."""

    def _score(self, highs: Floats, weights: Floats) -> Floats:
        """From the drawn rows of the class, and of all, at each value: (R, V) in, (R,) out."""
        lows = weights - highs
        won = (highs * (np.cumsum(lows, axis=1) - lows / 2)).sum(axis=1)
        return divided(won, highs.sum(axis=1) * lows.sum(axis=1))


class AveragePrecision(_ByClass):
    """Area under the precision-recall curve."""

    falling = True

    def _score(self, highs: Floats, weights: Floats) -> Floats:
        """From the drawn rows of the class, and of all, at each value, the highest first."""
        named = np.cumsum(weights, axis=1)
        right = np.cumsum(highs, axis=1)
        precision = np.divide(right, named, out=np.zeros_like(right), where=named > 0)
        return divided((highs * precision).sum(axis=1), highs.sum(axis=1))


class Kendall:
    """Kendall's tau-b.

    Discordant pairs are counted as by merge sort (Knight 1966): on each of log2 N levels, rows of
    the left half of a block, by the prediction, that have a larger label than one of the right.
    Which rows these are does not depend on the resample; how often each pair was drawn does.
    """

    def __init__(self, stacks: list[NDArray[Any]], true: NDArray[Any]) -> None:
        self._true = _Ties(true)
        self._stacks = [[self._prepared(seed, true) for seed in each] for each in stacks]

    @staticmethod
    def _prepared(
        values: NDArray[Any], true: NDArray[Any]
    ) -> tuple[_Ties, _Ties, list[tuple[int, NDArray[np.int64]]]] | None:
        if not (np.isfinite(values).all() and np.isfinite(true).all()):
            return None
        both = _Ties(values, true)
        label = np.unique(true, return_inverse=True)[1][both.order]
        size = 1 << max(1, (len(true) - 1).bit_length())
        place = np.arange(size)
        label = np.append(label, np.zeros(size - len(label), np.int64))
        levels, half = [], 1
        while half < size:
            left = place // half % 2 == 0
            # within a block labels fall; of equal ones the right half comes first
            levels.append((half, np.lexsort((left, -label, place // (2 * half)))))
            half *= 2
        return _Ties(values), both, levels

    def __call__(self, counts: Floats) -> list[Floats]:
        rows = counts.sum(axis=1)
        pairs = rows * (rows - 1) / 2
        true = self._true.pairs(counts)
        scores = []
        for each in self._stacks:
            found = np.full((len(each), len(counts)), math.nan)
            for seed, prepared in enumerate(each):
                if prepared is None:
                    continue
                values, both, levels = prepared
                own = values.pairs(counts)
                apart = pairs - own - true + both.pairs(counts)
                order = apart - 2 * _discordant(counts[:, both.order], levels)
                found[seed] = divided(order, np.sqrt((pairs - own) * (pairs - true)))
            scores.append(found)
        return scores


def _discordant(counts: Floats, levels: list[tuple[int, NDArray[np.int64]]]) -> Floats:
    """Drawn pairs in the other order: (R, N), sorted by the prediction, in, (R,) out."""
    total = np.zeros(len(counts))
    size = len(levels[0][1])
    padded = np.zeros((len(counts), size))
    padded[:, : counts.shape[1]] = counts
    for half, order in levels:
        drawn = padded[:, order]
        left = drawn * (order // half % 2 == 0)
        drawn -= left  # the right half
        before = np.cumsum(left, axis=1)
        total += (drawn * before).sum(axis=1)
        ends = before[:, 2 * half - 1 : -1 : 2 * half]  # what blocks before the own one added
        rights = drawn.reshape(len(counts), -1, 2 * half).sum(axis=2)[:, 1:]
        total -= (rights * ends).sum(axis=1)
    return total


class Ndcg:
    """Normalised discounted cumulative gain of the tenth of a resample predicted highest."""

    def __init__(self, stacks: list[NDArray[Any]], true: NDArray[Any]) -> None:
        self._labels = true.astype(np.float64)
        self._ideal = _Ties(-true)
        finite = bool(np.isfinite(true).all())
        self._stacks = [
            [_Ties(-seed) if finite and np.isfinite(seed).all() else None for seed in each]
            for each in stacks
        ]

    def __call__(self, counts: Floats) -> list[Floats]:
        rows = counts.sum(axis=1)
        drawn = counts > 0
        high = np.where(drawn, self._labels, -math.inf).max(axis=1, keepdims=True)
        low = np.where(drawn, self._labels, math.inf).min(axis=1, keepdims=True)
        spread = high - low
        with np.errstate(invalid="ignore", divide="ignore"):
            gains = np.where(drawn & (spread > 0), (self._labels - low) / spread, 0)  # (R, N)
        k = top_rows(rows)[:, None]
        discounts = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(int(k.max())) + 2))])
        best = self._gained(self._ideal, counts, gains, k, discounts)
        scores = []
        for each in self._stacks:
            found = np.full((len(each), len(counts)), math.nan)
            for seed, ties in enumerate(each):
                if ties is not None:
                    gained = self._gained(ties, counts, gains, k, discounts)
                    found[seed] = divided(gained, best)
            scores.append(found)
        return scores

    @staticmethod
    def _gained(
        ties: _Ties, counts: Floats, gains: Floats, k: NDArray[np.int64], discounts: Floats
    ) -> Floats:
        """Shape (R,); rows of one value share the mean of their gains."""
        weights = ties.weigh(counts)
        sums = ties.weigh(counts * gains)
        mean = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0)
        ends = np.cumsum(weights, axis=1).astype(np.int64)
        starts = ends - weights.astype(np.int64)
        places = discounts[np.minimum(ends, k)] - discounts[np.minimum(starts, k)]
        gained: Floats = (places * mean).sum(axis=1)
        return gained


def divided(part: Floats, whole: Floats) -> Floats:
    """part / whole, nan where whole is not above 0."""
    return np.divide(part, whole, out=np.full_like(part, math.nan), where=whole > 0)
