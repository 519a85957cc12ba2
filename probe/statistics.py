"""Uncertainty of test scores: predictions and truth in; intervals, differences and power out.

Shape letters: N test rows, G groups of them, S seeds, B backbones, R resamples, V distinct values.

Everything rests on one bootstrap (Efron 1979) over test items. Rows that share an input rise and
fall together, so whole groups are drawn where groups are given (Davison and Hinkley 1997, 3.8).
All backbones meet the same resamples, which is what makes their differences paired. Where a
backbone has several seeds, each resample also draws its seeds again (the pigeonhole bootstrap of
Owen 2007), so that intervals hold for training anew and not only for new rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.metrics import METRICS, Metric
from probe.resampled_metrics import COUNTED

RESAMPLES = 10_000
LEVEL = 0.05
"""Chance of calling a difference where there is none, two-sided."""
POWER = 0.80
MOST_UNDEFINED = 0.05
"""Share of resamples with an undefined score from which an interval is undefined too."""
NO_DIFFERENCE = "no detectable difference"

_CELLS = 1 << 20  # of resamples x rows in memory at once


@dataclass(frozen=True)
class Interval:
    """Ends of a percentile interval; nan where it is undefined."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Resampled:
    """Scores of B backbones over the same resamples of the test rows."""

    point: NDArray[np.float64]
    """Shape (B,): on the rows themselves, the mean over seeds."""
    scores: NDArray[np.float64]
    """Shape (B, R): column r belongs to one resample; nan where a score is undefined."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher one backbone scores than another."""

    difference: float
    """Of the test scores; positive where the first is better."""
    interval: Interval
    p: float
    """Two-sided, not adjusted for other comparisons; nan where undefined."""
    smallest_detectable: float
    """Difference that a test of this size would find; see `smallest_detectable_effect`."""


def resample_scores(
    predicted: Sequence[NDArray[Any]],
    true: NDArray[Any],
    metric: Metric,
    *,
    groups: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Resampled:
    """Score every backbone on the same resamples of the test rows.

    No resample is sorted: how often each row was drawn gives all mid-ranks by a running sum over
    the values in order, so 10,000 resamples of 1,000 rows take a second or two.

    Parameters
    ----------
    predicted : one array a backbone, shape (N,) or (S, N) with a row for each seed
    true : float64 or int64 class numbers, shape (N,)
    groups : int64, shape (N,): rows with one number are drawn together; default each by itself

    Raises
    ------
    ValueError
        Shapes do not fit, there is no row, or fewer than two resamples are asked for.
    """
    stacks = [np.atleast_2d(each) for each in predicted]
    if len(true) == 0 or any(each.ndim != 2 or each.shape[1:] != true.shape for each in stacks):
        raise ValueError(f"predictions {[each.shape for each in stacks]} of rows {true.shape}")
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}")
    member = np.arange(len(true)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rows, seeds = (np.random.Generator(np.random.PCG64([seed, stream])) for stream in (0, 1))
    score = COUNTED[metric](stacks, true)
    parts = [score(counts) for counts in _draw_rows(member, resamples, rows)]
    by_seed = [np.concatenate(each, axis=1) for each in zip(*parts, strict=True)]  # (S, R) each
    return Resampled(
        point=np.array([np.mean([METRICS[metric](p, true) for p in each]) for each in stacks]),
        scores=np.stack([_draw_seeds(each, seeds) for each in by_seed]),
    )


def bootstrap_interval(scores: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """The percentile interval (Efron and Tibshirani 1993, chapter 13) of one score or difference.

    Parameters
    ----------
    scores : float64, shape (R,)
        Over resamples. Undefined ones are left out, up to a share of `MOST_UNDEFINED`.
    level : chance that the interval misses, in all
    """
    defined = scores[~np.isnan(scores)]
    if len(defined) < (1 - MOST_UNDEFINED) * len(scores):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(defined, [level / 2, 1 - level / 2])
    return Interval(float(low), float(high))


def paired_bootstrap(
    resampled: Resampled, first: int, second: int, *, comparisons: int = 1
) -> Difference:
    """Compare two backbones over the same resamples.

    p is twice the share of resamples in which the difference has the other sign or is 0 (Efron
    and Tibshirani 1993, 15.4), counting the sample itself as one of them: never 0, and 1 for
    predictions that are the same.

    Parameters
    ----------
    first, second : rows of `resampled`
    comparisons : made in all; the smallest detectable difference allows for them
    """
    differences = resampled.scores[first] - resampled.scores[second]
    interval = bootstrap_interval(differences)
    difference = float(resampled.point[first] - resampled.point[second])
    if math.isnan(interval.low) or math.isnan(difference):
        nan = math.nan
        return Difference(
            difference=difference, interval=Interval(nan, nan), p=nan, smallest_detectable=nan
        )
    defined = differences[~np.isnan(differences)]
    # rounding must not give equal scores a sign
    tail = min((defined <= 1e-12).sum(), (defined >= -1e-12).sum())
    return Difference(
        difference=difference,
        interval=interval,
        p=min(1.0, 2 * (int(tail) + 1) / (len(defined) + 1)),
        smallest_detectable=smallest_detectable_effect(
            float(defined.std(ddof=1)), comparisons=comparisons
        ),
    )


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method (1979).

    Calling those below 5 % different is wrong in any of them with a chance of at most 5 %. nan
    (no comparison could be made) stays nan and does not count.
    """
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    adjusted, highest = [math.nan] * len(p), 0.0
    for step, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - step) * p[i]))
        adjusted[i] = highest
    return adjusted


def smallest_detectable_effect(
    standard_error: float, *, level: float = LEVEL, power: float = POWER, comparisons: int = 1
) -> float:
    """The true effect that a two-sided test finds with the asked power: (z + z') standard errors.

    The normal approximation of Cohen (1988). With several comparisons the level is shared among
    them, the first and hardest step of Holm's method.
    """
    return _distance(level / comparisons, power) * standard_error


def smallest_detectable_spearman(n: int, *, level: float = LEVEL, power: float = POWER) -> float:
    """The rank correlation that n rows tell from 0.

    By Fisher's z with variance 1.06 / (n - 3) (Fieller, Hartley and Pearson 1957); nan below 4
    rows, where it is undefined.
    """
    return math.tanh(_distance(level, power) * math.sqrt(1.06 / (n - 3))) if n > 3 else math.nan


def smallest_detectable_accuracy(
    n: int, chance: float, *, level: float = LEVEL, power: float = POWER
) -> float:
    """How far above `chance` an accuracy on n rows must be, by the variance under chance.

    At most 1 - chance; nan without rows.
    """
    if n < 1:
        return math.nan
    return min(1 - chance, _distance(level, power) * math.sqrt(chance * (1 - chance) / n))


def _distance(level: float, power: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(1 - level / 2) + ndtri(power))


def _draw_rows(
    member: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """How often each row is in each resample: float64, shape (some, N), until all R are drawn."""
    groups = int(member.max()) + 1
    at_once = max(1, _CELLS // len(member))
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, None]
        often = np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups)
        yield often[:, member].astype(np.float64)


def _draw_seeds(scores: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The mean over as many seeds, drawn anew in each resample: (S, R) in, (R,) out."""
    seeds, resamples = scores.shape
    drawn = rng.integers(seeds, size=(seeds, resamples))
    mean: NDArray[np.float64] = np.take_along_axis(scores, drawn, axis=0).mean(axis=0)
    return mean
