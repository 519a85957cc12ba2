"""Intervals, p and power from a score and its variance.

Student's t throughout. The ends of an interval of a score are computed where its noise is nearest
to normal and never leave its range: Fisher's z of a correlation (1921), the logit of a share
(delta method). A difference has its interval as it is.
"""

from __future__ import annotations

import math

from probe.judging.variance import Variance
from probe.statistics import Interval

UNDEFINED = Interval(math.nan, math.nan)
CORRELATIONS = frozenset({"spearman", "pearson", "kendall", "mcc"})
"""Metrics from -1 to 1."""
SHARES = frozenset(
    {
        "accuracy",
        "balanced-accuracy",
        "macro-f1",
        "f1",
        "auroc",
        "auprc",
        "average-precision",
        "ndcg",
    }
)
"""Metrics from 0 to 1."""


def score_interval(
    score: float, variance: Variance, metric: str, level: float, groups: float
) -> Interval:
    """The two-sided interval of a mean score.

    A share of exactly 0 or 1 has no spread over resamples; its other end is that of Clopper and
    Pearson (1934) for `groups` independent rows.
    """
    if math.isnan(score) or math.isnan(variance.error):
        return UNDEFINED
    half = quantile(1 - level / 2, variance.freedom) * variance.error
    if metric in CORRELATIONS and abs(score) < 1:
        z, half = math.atanh(score), half / (1 - score**2)
        return Interval(math.tanh(z - half), math.tanh(z + half))
    if metric in SHARES and 0 < score < 1:
        z, half = math.log(score / (1 - score)), half / (score * (1 - score))
        return Interval(_expit(z - half), _expit(z + half))
    if metric in SHARES and score in (0.0, 1.0) and variance.error == 0:
        reach = 1 - (level / 2) ** (1 / groups)
        return Interval(0.0, reach) if score == 0 else Interval(1 - reach, 1.0)
    return Interval(score - half, score + half)


def difference_interval(difference: float, variance: Variance, level: float) -> Interval:
    """The two-sided interval of a difference."""
    if math.isnan(difference) or math.isnan(variance.error):
        return UNDEFINED
    half = quantile(1 - level / 2, variance.freedom) * variance.error
    return Interval(difference - half, difference + half)


def p_of(difference: float, variance: Variance) -> float:
    """Two-sided; 1 for predictions that score the same everywhere, nan where undefined."""
    from scipy.special import stdtr

    if math.isnan(difference) or math.isnan(variance.error):
        return math.nan
    if variance.error < 1e-12:
        return 1.0 if abs(difference) < 1e-12 else math.nan
    return float(2 * stdtr(variance.freedom, -abs(difference) / variance.error))


def detectable(variance: Variance, level: float, power: float, comparisons: int = 1) -> float:
    """The true difference that a two-sided test at `level` / `comparisons` finds with `power`.

    As in `probe.statistics.smallest_detectable_effect`, with quantiles of t.
    """
    if math.isnan(variance.error):
        return math.nan
    z = quantile(1 - level / 2 / comparisons, variance.freedom) + quantile(power, variance.freedom)
    return z * variance.error


def quantile(share: float, freedom: float) -> float:
    """Student's t below which `share` lies."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _expit(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0
