"""Differences between trained heads, within a run and across runs: pairs in, verdicts out.

A pair of one run has its bootstrap in `results.json`. Heads of different runs are compared here,
over the same resamples of the test rows they share; that needs the same task and the same split.
p is adjusted by Holm's method for the family of pairs asked together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from probe.comparisons import worth_drawing
from probe.documents import or_none
from probe.groups import connect
from probe.report.entries import Entry, Run
from probe.statistics import (
    LEVEL,
    NO_DIFFERENCE,
    Resampled,
    holm,
    paired_bootstrap,
    resample_scores,
    smallest_detectable_effect,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How much higher one head scores than another, as tested within a family of pairs."""

    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None
    smallest_detectable: float | None = None
    """Found with 80 % power at the first of Holm's steps."""
    family: int
    """Pairs tested together."""
    verdict: str
    """`higher`, `lower`, `no detectable difference` or `undefined`, of the first."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Raw:
    """One pair before any adjustment."""

    difference: float
    low: float
    high: float
    p: float
    standard_error: float


_UNDEFINED = _Raw(*[math.nan] * 5)


class Study:
    """Runs of one task and one split: all their heads can be compared pair by pair."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)

    def compare(self, pairs: Sequence[tuple[Entry, Entry]]) -> list[Compared]:
        """Test pairs as one family; positive differences favour the first of a pair."""
        raw = [self._raw(first, second) for first, second in pairs]
        return [
            Compared(
                difference=or_none(each.difference),
                low=or_none(each.low),
                high=or_none(each.high),
                p_holm=or_none(p),
                smallest_detectable=or_none(
                    smallest_detectable_effect(each.standard_error, comparisons=len(pairs))
                ),
                family=len(pairs),
                verdict=_verdict(each, p),
            )
            for each, p in zip(raw, holm([each.p for each in raw]), strict=True)
        ]

    @cached_property
    def unpaired(self) -> str | None:
        """Why runs of this study cannot be compared with one another; None where they can."""
        if len(self.runs) == 1:
            return None
        for run in self.runs:
            if run.groups is None:
                return f"{run.name} does not say which of its test rows share an input"
            if any(each.predictions is None for each in run.entries):
                return f"{run.name} lacks predictions of single rows"
        first, *others = (each for run in self.runs for each in run.entries)
        mine = first.predictions
        for other in others:
            theirs = other.predictions
            if mine is None or theirs is None:
                continue
            if mine.ids != theirs.ids or not np.array_equal(mine.true, theirs.true):
                return f"{first.run.name} and {other.run.name} differ in test rows or labels"
        return None

    def _raw(self, first: Entry, second: Entry) -> _Raw:
        if first.run is second.run:
            return _stored(first, second)
        if self.unpaired is not None:
            return _UNDEFINED
        resampled, place = self._resampled
        if first not in place or second not in place:
            return _UNDEFINED
        found = paired_bootstrap(resampled, place[first], place[second])
        unit = smallest_detectable_effect(1.0)
        return _Raw(
            found.difference,
            found.interval.low,
            found.interval.high,
            found.p,
            found.smallest_detectable / unit,
        )

    @cached_property
    def _resampled(self) -> tuple[Resampled, dict[Entry, int]]:
        """Every head of the study over the same resamples, and its row in them."""
        entries = [each for run in self.runs for each in run.entries]
        loaded = [each.predictions for each in entries]
        known = [each for each in loaded if each is not None]
        true, ids = known[0].true, known[0].ids
        logger.info("comparing %d heads on %d test rows", len(known), len(true))
        predicted = [each.predicted for each in known]
        if true.dtype.kind == "U":
            _, numbers = np.unique(np.concatenate([true, *map(np.ravel, predicted)]), False, True)
            true, *rest = np.split(
                numbers, np.cumsum([true.size, *(each.size for each in predicted)])[:-1]
            )
            predicted = [each.reshape(old.shape) for each, old in zip(rest, predicted, strict=True)]
        columns = [[(run.groups or {}).get(id, id) for id in ids] for run in self.runs]
        metric: Any = self.runs[0].metric
        resampled = resample_scores(
            predicted, true, metric, groups=worth_drawing(connect([list(ids), *columns]))
        )
        return resampled, {each: at for at, each in enumerate(entries)}


def _stored(first: Entry, second: Entry) -> _Raw:
    """The pair as the run itself tested it, without its adjustment."""
    found = first.run.results.get("comparisons", {})
    pairs = found.get("pairs", [])
    for pair in pairs:
        if {pair["first"], pair["second"]} != {first.name, second.name}:
            continue
        if pair["p"] is None:
            return _UNDEFINED
        unit = smallest_detectable_effect(1.0, comparisons=len(pairs))
        difference, low, high = pair["difference"], pair["low"], pair["high"]
        if pair["first"] != first.name:
            difference, low, high = -difference, -high, -low
        return _Raw(difference, low, high, pair["p"], pair["smallest_detectable"] / unit)
    return _UNDEFINED


def _verdict(raw: _Raw, p: float) -> str:
    if math.isnan(p):
        return "undefined"
    if p >= LEVEL:
        return NO_DIFFERENCE
    return "higher" if raw.difference > 0 else "lower"


def group_studies(runs: Sequence[Run]) -> list[Study]:
    """Runs of one task and one split together, in the order of their first runs."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.study, []).append(run)
    return [Study(each) for each in found.values()]
