"""Scores, differences and verdicts of a design: predictions in, one `Judged` out.

The one place that says whether a difference is real: runs, reports, tables and pages ask here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from probe.documents import or_none
from probe.judging.design import Design
from probe.judging.informative import informative_groups
from probe.judging.interval import detectable, difference_interval, p_of, score_interval
from probe.judging.predicted import Predicted, check
from probe.judging.rescored import Rescored, rescore
from probe.judging.variance import (
    FEWEST_SPLITS,
    FEWEST_TRAININGS,
    Noises,
    Side,
    Variance,
    measure_noises,
    measure_variance,
    speaks_of_heads,
)
from probe.metrics import Metric
from probe.statistics import LEVEL, NO_DIFFERENCE, POWER, Interval, holm

Claim = Literal["backbones", "heads"]
"""Whom a statement is about: backbones, trained again, or the trained heads at hand alone."""
Scope = Literal["any split", "this split"]
"""Whether another split of the table is part of the statement."""

MOST_RESAMPLES, FEWEST_RESAMPLES = 2_000, 400
"""Only variances are taken from resamples: 2,000 give a standard error to 1.6 %, 400 to 3.5 %."""
WORK = 1_000_000_000
"""Values of predictions that all resamples together score."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How one head scores."""

    name: str
    score: float
    """The mean over splits and trainings, of the mean over outputs."""
    interval: Interval
    by_split: tuple[tuple[float, ...], ...]
    """Shape (K, S): of each split and training."""
    noises: Noises
    claim: Claim
    scope: Scope
    reason: str | None
    """Why the statement is about less than backbones, or withheld."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How much higher one head scores than another."""

    first: str
    second: str
    difference: float
    """Positive where the first is better."""
    interval: Interval
    p: float
    """Two-sided, not adjusted; nan where undefined or withheld."""
    p_holm: float
    """Adjusted for all pairs tested together."""
    smallest_detectable: float
    """True difference found with 80 % power at the first of Holm's steps."""
    variance: Variance
    claim: Claim
    scope: Scope
    verdict: str
    """`first higher`, `second higher`, `no detectable difference`, `undefined` or `withheld`."""
    reason: str | None
    """Why it is withheld, or about less than backbones."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a design allows to say."""

    metric: Metric
    level: float
    resamples: int
    resampled: str
    """What was drawn, for people."""
    rows: int
    """Test rows of all splits."""
    groups: int
    effective_groups: float
    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]

    def score(self, name: str) -> Score:
        """Of one head by its name."""
        return next(each for each in self.scores if each.name == name)

    def pair(self, first: str, second: str) -> Pair:
        """Of two heads by their names, in the order in which they were tested."""
        return next(each for each in self.pairs if (each.first, each.second) == (first, second))

    def document(self) -> dict[str, Any]:
        """Plain values, None for undefined numbers."""
        return {
            "metric": self.metric,
            "level": self.level,
            "power": POWER,
            "resamples": self.resamples,
            "resampled": self.resampled,
            "rows": self.rows,
            "groups": self.groups,
            "effective_groups": round(self.effective_groups, 1),
            "scores": [
                {
                    "name": each.name,
                    "score": or_none(each.score),
                    "interval": _ends(each.interval),
                    "by_split": [[or_none(cell) for cell in row] for row in each.by_split],
                    "noises": dict(vars(each.noises)),
                    "claim": each.claim,
                    "scope": each.scope,
                    "reason": each.reason,
                }
                for each in self.scores
            ],
            "pairs": [
                {
                    "first": each.first,
                    "second": each.second,
                    "difference": or_none(each.difference),
                    "interval": _ends(each.interval),
                    "p": or_none(each.p),
                    "p_holm": or_none(each.p_holm),
                    "smallest_detectable": or_none(each.smallest_detectable),
                    "standard_error": or_none(each.variance.error),
                    "degrees_of_freedom": or_none(each.variance.freedom),
                    "claim": each.claim,
                    "scope": each.scope,
                    "verdict": each.verdict,
                    "reason": each.reason,
                }
                for each in self.pairs
            ],
        }


def resamples_within(values: int) -> int:
    """How many resamples are drawn: as many as `WORK` allows, within bounds.

    Parameters
    ----------
    values : predictions scored in one resample: labels x trainings x splits x heads
    """
    return max(FEWEST_RESAMPLES, min(MOST_RESAMPLES, WORK // max(1, values)))


def resample(
    design: Design,
    heads: Sequence[Predicted],
    truth: NDArray[Any],
    metric: Metric,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int | None = None,
    seed: int = 0,
    level: float = LEVEL,
) -> Judged:
    """Judge every head, and pairs of them as one family of tests.

    Neither the order of rows nor that of heads enters, as long as groups keep their numbers.

    Parameters
    ----------
    truth : float64 or int64 class numbers, shape (N,), (N, P), (N, Q) or (N, P, Q) for the N rows
        of `Design.groups`; nan where a position or an output has no label
    pairs : names; default every pair
    resamples : default `resamples_within` of the work

    Raises
    ------
    ValueError
        Shapes or names do not fit.
    """
    heads = list(heads)
    check(design, heads, truth)
    if resamples is None:
        resamples = resamples_within(sum(each.size for head in heads for each in head.splits))
    rescored = rescore(design, heads, truth, metric, resamples=resamples, seed=seed)
    return judge(design, heads, rescored, truth, metric, pairs=pairs, level=level)


def judge(
    design: Design,
    heads: Sequence[Predicted],
    rescored: Sequence[Rescored],
    truth: NDArray[Any],
    metric: Metric,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    level: float = LEVEL,
) -> Judged:
    """What `resample` does after the scores of all resamples are there."""
    places = {head.name: at for at, head in enumerate(heads)}
    if pairs is None:
        pairs = list(itertools.combinations(places, 2))
    sides = [Side(each, head.has_seeds) for each, head in zip(rescored, heads, strict=True)]
    found = []
    for first, second in pairs:
        a, b = places[first], places[second]
        informative, few = informative_groups(design, [heads[a], heads[b]], truth, metric)
        contrast = (sides[a], Side(rescored[b], heads[b].has_seeds, -1))
        variance = measure_variance(design, contrast, max(2.0, informative))
        found.append(_compare(design, (first, second), contrast, variance, few, level, len(pairs)))
    adjusted = holm([each.p for each in found])
    return Judged(
        metric=metric,
        level=level,
        resamples=rescored[0].drawn.shape[2],
        resampled=design.words(),
        rows=len(design.groups),
        groups=design.group_count,
        effective_groups=design.effective_groups,
        scores=tuple(
            _score(design, head, side, truth, metric, level)
            for head, side in zip(heads, sides, strict=True)
        ),
        pairs=tuple(_with_verdict(pair, p, level) for pair, p in zip(found, adjusted, strict=True)),
    )


def _score(
    design: Design,
    head: Predicted,
    side: Side,
    truth: NDArray[Any],
    metric: Metric,
    level: float,
) -> Score:
    informative, few = informative_groups(design, [head], truth, metric)
    mean = float(side.scores.point.mean())
    variance = measure_variance(design, [side], max(2.0, informative))
    claim, scope, reason = _claim(design, [side])
    return Score(
        name=head.name,
        score=mean,
        interval=score_interval(mean, variance, metric, level, informative),
        by_split=tuple(tuple(row) for row in side.scores.point.tolist()),
        noises=measure_noises(design, side),
        claim=claim,
        scope=scope,
        reason=few or reason,
    )


def _compare(
    design: Design,
    names: tuple[str, str],
    contrast: tuple[Side, Side],
    variance: Variance,
    withheld: str | None,
    level: float,
    comparisons: int,
) -> Pair:
    """A pair before Holm's adjustment; its verdict is open, or withheld with a reason."""
    first, second = contrast
    difference = float(first.scores.point.mean() - second.scores.point.mean())
    claim, scope, reason = _claim(design, contrast)
    return Pair(
        first=names[0],
        second=names[1],
        difference=difference,
        interval=difference_interval(difference, variance, level),
        p=math.nan if withheld else p_of(difference, variance),
        p_holm=math.nan,
        smallest_detectable=detectable(variance, level, POWER, comparisons),
        variance=variance,
        claim=claim,
        scope=scope,
        verdict="withheld" if withheld else "",
        reason=withheld or reason,
    )


def _with_verdict(pair: Pair, p: float, level: float) -> Pair:
    verdict = pair.verdict
    if not verdict:
        if math.isnan(p):
            verdict = "undefined"
        elif p >= level:
            verdict = NO_DIFFERENCE
        else:
            verdict = "first higher" if pair.difference > 0 else "second higher"
    return Pair(**{**vars(pair), "p_holm": p, "verdict": verdict})


def _claim(design: Design, sides: Sequence[Side]) -> tuple[Claim, Scope, str | None]:
    """Whom a statement is about, and why not about more."""
    splits = len(design.tests)
    scope: Scope = "any split" if splits >= FEWEST_SPLITS else "this split"
    if speaks_of_heads(design, sides):
        fewest = min(side.scores.point.shape[1] for side in sides if side.has_seeds)
        return (
            "heads",
            scope,
            f"{fewest} training{'s' * (fewest > 1)} of a head cannot tell how another would score:"
            f" this is about these trained heads. Give --seeds {FEWEST_TRAININGS} or more.",
        )
    if scope == "this split":
        return "backbones", scope, "One split: rows that trained are taken as given."
    return "backbones", scope, None


def _ends(interval: Interval) -> list[float | None]:
    return [or_none(interval.low), or_none(interval.high)]
