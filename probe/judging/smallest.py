"""The smallest backbone that is not worse by more than a margin: pairs in, a name or a number out.

No best has to be picked: a backbone is not worse than the best by more than the margin exactly if
it is not worse than any other by more than it. Each of these is a one-sided test, all of them must
hold, and so the level needs no adjustment for them (intersection-union, Berger 1982; multiple
comparisons with the best, Hsu 1984). Candidates are several, and the level is shared among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from probe.documents import or_none
from probe.judging.interval import quantile
from probe.judging.resample import Claim, Judged, Pair
from probe.judging.variance import Variance
from probe.statistics import LEVEL, POWER

MARGIN = 0.05
"""Difference of scores that does not matter."""
State = Literal["within", "worse", "cannot say", "withheld"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """How one backbone stands to all others."""

    name: str
    state: State
    """`within` the margin of all others; `worse` than another by more than the margin; or this
    test set cannot say."""
    against: str
    """The one that decides: against which its bound is lowest."""
    difference: float
    """Its score less that one's."""
    bound: float
    """Lower bound of that difference."""
    groups_needed: int | None
    """Groups of test rows (rows, where each is its own) with which a backbone that scores alike
    would be named with 80 % power; None where it is decided, or no number of rows would do."""


@dataclass(frozen=True, kw_only=True)
class Smallest:
    """The answer."""

    margin: float
    name: str | None
    """The smallest backbone within the margin; None where none is shown to be."""
    claim: Claim
    candidates: tuple[Candidate, ...]
    """Smallest first."""
    words: str

    def document(self) -> dict[str, Any]:
        """Plain values, None for undefined numbers."""
        return {
            "margin": self.margin,
            "name": self.name,
            "claim": self.claim,
            "words": self.words,
            "candidates": [
                {**vars(each), "difference": or_none(each.difference), "bound": or_none(each.bound)}
                for each in self.candidates
            ],
        }


def find_smallest(
    judged: Judged, sizes: Mapping[str, float], *, margin: float = MARGIN, level: float = LEVEL
) -> Smallest:
    """Name the smallest backbone of which the data show that it is not worse by more than `margin`.

    The chance of naming one that is worse by more is at most `level`.

    Parameters
    ----------
    judged : with a pair for any two of the names
    sizes : parameters of each backbone, two or more; of equal ones the earlier counts as smaller

    Raises
    ------
    ValueError
        There are fewer than two names, the margin is not positive, or a pair is missing.
    """
    if len(sizes) < 2 or not margin > 0:
        raise ValueError(f"{len(sizes)} backbones, margin {margin}")
    order = sorted(sizes, key=lambda name: sizes[name])
    by_names = {(pair.first, pair.second): pair for pair in judged.pairs}
    mine = [pair for pair in judged.pairs if pair.first in sizes and pair.second in sizes]
    # never looser than the interval that is shown
    share = min(level / 2, level / (len(order) - 1))
    candidates = tuple(
        _stand(
            name,
            [_facing(by_names, name, other) for other in order if other != name],
            judged,
            margin,
            share,
        )
        for name in order
    )
    name = next((each.name for each in candidates if each.state == "within"), None)
    claim: Claim = "heads" if any(pair.claim == "heads" for pair in mine) else "backbones"
    words = _words(candidates, name, margin, judged)
    return Smallest(margin=margin, name=name, claim=claim, candidates=candidates, words=words)


@dataclass(frozen=True)
class _Faced:
    """A pair as seen by one of its two."""

    other: str
    difference: float
    variance: Variance
    withheld: bool


def _facing(pairs: Mapping[tuple[str, str], Pair], name: str, other: str) -> _Faced:
    for pair, sign in ((pairs.get((name, other)), 1), (pairs.get((other, name)), -1)):
        if pair is not None:
            withheld = pair.verdict in ("withheld", "undefined")
            return _Faced(other, sign * pair.difference, pair.variance, withheld)
    raise ValueError(f"{name} and {other} were not compared")


def _stand(
    name: str, faced: list[_Faced], judged: Judged, margin: float, share: float
) -> Candidate:
    def bound(each: _Faced, sign: int) -> float:
        reach = quantile(1 - share, each.variance.freedom) * each.variance.error
        return each.difference + sign * reach

    known = [each for each in faced if not each.withheld]
    if len(known) < len(faced):
        other = next(each for each in faced if each.withheld)
        return Candidate(
            name=name, state="withheld", against=other.other, difference=other.difference,
            bound=math.nan, groups_needed=None,
        )  # fmt: skip
    lowest = min(known, key=lambda each: bound(each, -1))
    state: State = "cannot say"
    if bound(lowest, -1) > -margin:
        state = "within"
    elif any(bound(each, 1) < -margin for each in known):
        state = "worse"
    needed = None
    if state == "cannot say":
        numbers = [_groups_needed(each, judged, margin, share) for each in known]
        needed = None if None in numbers else max(each for each in numbers if each is not None)
    return Candidate(
        name=name, state=state, against=lowest.other, difference=lowest.difference,
        bound=bound(lowest, -1), groups_needed=needed,
    )  # fmt: skip


def _groups_needed(faced: _Faced, judged: Judged, margin: float, share: float) -> int | None:
    """Groups with which a bound lies above -margin in 80 % where the true difference is 0."""
    freedom = faced.variance.freedom
    error = margin / (quantile(1 - share, freedom) + quantile(POWER, freedom))
    room = error**2 - faced.variance.others
    if room <= 0:
        return None
    return math.ceil(judged.groups * faced.variance.rows / room)


def _words(
    candidates: tuple[Candidate, ...], name: str | None, margin: float, judged: Judged
) -> str:
    parts = []
    if name is not None:
        parts.append(f"{name} is the smallest that is not worse by more than {margin:g}.")
    for each in candidates:
        if each.name == name:
            break
        if each.state == "withheld":
            parts.append(f"{each.name}: no verdict.")
        if each.state == "cannot say":
            parts.append(f"{each.name}: this test set cannot say; {_needed(each, judged)}.")
    return " ".join(parts) or f"None is shown to be within {margin:g} of all others."


def _needed(each: Candidate, judged: Judged) -> str:
    if each.groups_needed is None:
        return "more trainings or splits are needed first"
    unit = "rows" if judged.groups == judged.rows else "groups of rows"
    return f"about {each.groups_needed:,} {unit} would"
