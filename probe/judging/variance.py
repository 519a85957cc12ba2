"""Noise of a mean score, or of a difference of two: scores over resamples in, variances out.

Shape letters: K splits, S trainings, R resamples, G groups.

One split with S trainings: test rows and trainings are crossed random factors, as cases and
readers are in radiology. The variance of a mean over trainings is

    C + s^2 / S

with s^2 the variance between the scores of the trainings (S - 1 in the denominator) and C the
covariance of two trainings' scores over resamples of the rows (Obuchowski and Rockette 1995;
Hillis, Obuchowski and Berbaum 2011 for trainings of one head). Rows bring C twice as little as they
bring one training's score; what they do to each training alone is within s^2 already. In a
difference each side brings its own s^2 / S; a side without seeds brings none, and its rows count in
full. Degrees of freedom are Satterthwaite's (1946).

Three splits or more: rows are drawn for all splits at once, which gives the noise V of the test
rows in the mean over splits. Training sets overlap, and a bootstrap of test rows does not see what
another table would have trained. Nadeau and Bengio (2003) count that as n_test / n_train times the
variance between splits. We measure the same variance by the bootstrap, which knows it far better
than K splits do: V times rows of the table / rows of train. What splits differ by beyond their test
rows (training sets, random starts) is added, divided by K. `scripts/simulate_statistics.py`
compares both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe.judging.design import Design
from probe.judging.rescored import Rescored

FEWEST_TRAININGS = 3
"""Trainings of a head with seeds from which their spread tells how another would score."""
FEWEST_SPLITS = 3
"""Splits from which their spread tells how another would score."""
MOST_UNDEFINED = 0.05
"""Share of resamples with an undefined score from which the noise is undefined too."""


@dataclass(frozen=True)
class Side:
    """One head in a contrast."""

    scores: Rescored
    has_seeds: bool
    sign: int = 1


@dataclass(frozen=True)
class Variance:
    """Of one score or difference; nan where it is undefined."""

    rows: float
    """From test rows: falls in inverse proportion to their groups."""
    others: float
    """From trainings or splits: falls with more of them."""
    freedom: float
    """Degrees of freedom of the sum."""

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.rows + self.others)


@dataclass(frozen=True)
class Noises:
    """Standard deviations of one score: what would change if only this were done again.

    None where the design cannot tell.
    """

    rows: float | None
    """Other test rows of the same number, for one training and one split."""
    training: float | None
    """Another training on the same rows: 0 for a head without seeds, None with one training."""
    split: float | None
    """Another split of the table, beyond its test rows and trainings. With one training a split it
    holds the noise of training too."""
    between_splits: float | None
    """All of them at once, as seen: the standard deviation of the splits' scores."""


UNDEFINED = Variance(math.nan, math.nan, math.nan)


def speaks_of_heads(design: Design, sides: Sequence[Side]) -> bool:
    """Whether the noise of training is unknown on a side that has it.

    Then a statement holds for these trained heads alone, not for their backbones.
    """
    return len(design.tests) < FEWEST_SPLITS and any(
        side.has_seeds and side.scores.point.shape[1] < FEWEST_TRAININGS for side in sides
    )


def measure_variance(design: Design, sides: Sequence[Side], informative: float) -> Variance:
    """The variance of a contrast: the sum over sides of sign times the mean score.

    Parameters
    ----------
    informative : groups that tell something; the noise of rows has one degree of freedom less
    """
    drawn = sum(side.sign * side.scores.drawn.mean(axis=1) for side in sides)  # (K, R)
    assert not isinstance(drawn, int)
    defined = ~np.isnan(drawn).any(axis=0)
    point = sum(side.sign * side.scores.point.mean(axis=1) for side in sides)
    undefined = np.isnan(point).any() or defined.mean() < 1 - MOST_UNDEFINED
    if undefined or defined.sum() < 2 or min(informative, design.effective_groups) < 1.5:
        return UNDEFINED
    drawn = drawn[:, defined]
    freedom = 1 / (1 / (informative - 1) + 1 / (drawn.shape[1] - 1))  # few resamples count too
    small = design.effective_groups / (design.effective_groups - 1)  # a bootstrap divides by G
    rows = small * float(drawn.mean(axis=0).var(ddof=1))
    if len(drawn) >= FEWEST_SPLITS:
        own = small * _own(drawn)
        excess = max(0.0, float(np.var(point, ddof=1)) - own) / len(drawn)
        return _sum(rows / design.train_share, [(excess, len(drawn) - 1)], freedom)
    rows /= design.train_share if len(drawn) > 1 else 1.0
    if speaks_of_heads(design, sides):
        return Variance(rows, 0.0, freedom)
    shared, parts = rows, []
    for side in sides:
        if side.has_seeds:
            trainings = side.scores.point.shape[1]
            seeds = side.scores.drawn.mean(axis=0)[:, defined]  # (S, R)
            shared -= small * _own(seeds) / trainings
            spread = float(np.var(side.scores.point.mean(axis=0), ddof=1))
            parts.append((spread / trainings, trainings - 1))
    return _sum(max(0.0, shared), parts, freedom, rows)


def measure_noises(design: Design, side: Side) -> Noises:
    """What one score varies by, and from where."""
    point, drawn = side.scores.point, side.scores.drawn
    defined = ~np.isnan(drawn).any(axis=(0, 1))
    if np.isnan(point).any() or defined.mean() < 1 - MOST_UNDEFINED or design.effective_groups <= 1:
        return Noises(None, None, None, None)
    drawn = drawn[..., defined]
    small = design.effective_groups / (design.effective_groups - 1)
    rows = small * float(drawn.var(axis=2, ddof=1).mean())
    splits, trainings = point.shape
    training: float | None = None if side.has_seeds else 0.0
    if side.has_seeds and trainings > 1:
        own = small * float(np.mean([_own(each) for each in drawn]))
        training = max(0.0, float(point.var(axis=1, ddof=1).mean()) - own)
    between = split = None
    if splits > 1:
        between = float(point.mean(axis=1).var(ddof=1))
        split = between - small * _own(drawn.mean(axis=1)) - (training or 0.0) / trainings
    return Noises(_root(rows), _root(training), _root(split), _root(between))


def _own(drawn: NDArray[np.float64]) -> float:
    """What resampling does to each of K scores alone: mean variance less mean covariance."""
    if len(drawn) < 2:
        return 0.0
    deviations = drawn - drawn.mean(axis=0)
    return float(deviations.var(axis=1, ddof=1).sum() / (len(drawn) - 1))


def _sum(
    shared: float,
    parts: Sequence[tuple[float, int]],
    freedom: float,
    rows: float | None = None,
) -> Variance:
    """The sum of independent variances, with Satterthwaite's degrees of freedom.

    Parameters
    ----------
    shared, freedom : of the test rows
    parts : of the others, each with its degrees of freedom
    rows : what falls with more rows, where that is not `shared`
    """
    total = shared + sum(each for each, _ in parts)
    squares = shared**2 / freedom + sum(each**2 / degrees for each, degrees in parts)
    found = total**2 / squares if squares > 0 else freedom
    mine = min(total, shared if rows is None else rows)
    return Variance(mine, total - mine, found)


def _root(variance: float | None) -> float | None:
    return None if variance is None else math.sqrt(max(0.0, variance))
