"""Backbones and baselines against each other: test predictions in, intervals and verdicts out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probe.documents import or_none
from probe.groups import connect
from probe.statistics import (
    LEVEL,
    NO_DIFFERENCE,
    POWER,
    RESAMPLES,
    Difference,
    Resampled,
    bootstrap_interval,
    holm,
    paired_bootstrap,
    resample_scores,
)

if TYPE_CHECKING:
    from probe.plan import Plan

FEWEST_GROUPS = 10
"""Groups of test rows below which resampling them tells nothing; then rows are resampled."""

MANY_LABELS = 10_000
"""Test labels (positions counted one by one) above which fewer resamples are drawn."""
FEWER_RESAMPLES = 2_000


def compare(
    plan: Plan, backbones: Mapping[str, NDArray[Any]], baselines: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    """Intervals of every test score, and every pair in which a backbone takes part.

    Test rows that share the input of any backbone are drawn together, and so are all positions of
    a row. Of several outputs the mean over outputs is resampled.

    Parameters
    ----------
    backbones, baselines : by name, predictions for the test rows as `Objective.decode` gives
        them, or with one axis more, in front, for seeds

    Returns
    -------
    `comparisons` of `results.json`: plain values, None for undefined numbers
    """
    both = {**backbones, **baselines}
    names = list(both)
    groups = _test_groups(plan)
    test = plan.examples("test").targets
    resampled = _resample(plan, list(both.values()), groups)
    pairs = [(i, j) for i, j in itertools.combinations(range(len(names)), 2) if i < len(backbones)]
    found = [paired_bootstrap(resampled, i, j, comparisons=len(pairs)) for i, j in pairs]
    adjusted = holm([each.p for each in found])
    intervals = {name: bootstrap_interval(resampled.scores[i]) for i, name in enumerate(names)}
    return {
        "resamples": resampled.scores.shape[1],
        "level": LEVEL,
        "power": POWER,
        "rows": len(test),
        "groups": None if groups is None else int(groups.max()) + 1,
        "resampled": f"the {len(test):,} test rows"
        if groups is None
        else f"the {int(groups.max()) + 1:,} different inputs of the {len(test):,} test rows",
        "intervals": {name: [or_none(i.low), or_none(i.high)] for name, i in intervals.items()},
        "pairs": [
            _document(names[i], names[j], each, p)
            for (i, j), each, p in zip(pairs, found, adjusted, strict=True)
        ],
    }


def _resample(
    plan: Plan, predicted: Sequence[NDArray[Any]], groups: NDArray[np.int64] | None
) -> Resampled:
    """Scores over resamples of the test rows, by the task's metric."""
    test = plan.examples("test").targets
    outputs = [plan.objective.outputs_of(each, test) for each in predicted]
    if plan.task.kind == "per-position":
        groups = np.arange(len(test)) if groups is None else groups
        groups = groups.repeat((~np.isnan(test)).sum(axis=1))
    found = []
    for columns in zip(*outputs, strict=True):  # every backbone's predictions of one output
        true = columns[0][1]
        found.append(
            resample_scores(
                [mine for mine, _ in columns],
                true,
                plan.task.metric,
                groups=groups,
                resamples=RESAMPLES if len(true) <= MANY_LABELS else FEWER_RESAMPLES,
                seed=plan.grid.seed,  # the same rows and seeds of every output
            )
        )
    return Resampled(
        point=np.mean([each.point for each in found], axis=0),
        scores=np.mean([each.scores for each in found], axis=0),
    )


def _test_groups(plan: Plan) -> NDArray[np.int64] | None:
    """Which test rows share an input, shape (N,); None where they are best drawn one by one."""
    return worth_drawing(input_groups(plan))


def input_groups(plan: Plan) -> NDArray[np.int64]:
    """Which test rows share the input of any backbone: a group number for each, shape (N,)."""
    rows = plan.split.test.tolist()
    return connect([[keys[row] for row in rows] for keys in plan.keys.values()])


def worth_drawing(groups: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The groups of test rows, numbered from 0; None where rows are best drawn one by one."""
    count = int(groups.max()) + 1
    return groups if FEWEST_GROUPS <= count < len(groups) else None


def _document(first: str, second: str, found: Difference, p: float) -> dict[str, Any]:
    if math.isnan(p):
        verdict = "undefined"
    elif p >= LEVEL:
        verdict = NO_DIFFERENCE
    else:
        verdict = f"{first if found.difference > 0 else second} scores higher"
    return {
        "first": first,
        "second": second,
        "difference": or_none(found.difference),
        "low": or_none(found.interval.low),
        "high": or_none(found.interval.high),
        "p": or_none(found.p),
        "p_holm": or_none(p),
        "smallest_detectable": or_none(found.smallest_detectable),
        "verdict": verdict,
    }
