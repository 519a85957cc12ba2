"""Backbones and baselines against each other: test predictions in, intervals and verdicts out."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
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
    bootstrap_interval,
    holm,
    paired_bootstrap,
    resample_scores,
)

if TYPE_CHECKING:
    from probe.plan import Plan

FEWEST_GROUPS = 10
"""Groups of test rows below which resampling them tells nothing; then rows are resampled."""


def compare(
    plan: Plan, backbones: Mapping[str, NDArray[Any]], baselines: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    """Intervals of every test score, and every pair in which a backbone takes part.

    Test rows that share the input of any backbone are drawn together.

    Parameters
    ----------
    backbones, baselines : by name, predictions for the test rows as `Objective.decode` gives
        them: shape (N,), or (S, N) with a row for each seed

    Returns
    -------
    `comparisons` of `results.json`: plain values, None for undefined numbers
    """
    both = {**backbones, **baselines}
    names = list(both)
    groups = _test_groups(plan)
    test = plan.examples("test").targets
    resampled = resample_scores(
        list(both.values()), test, plan.task.metric, groups=groups, seed=plan.grid.seed
    )
    pairs = [(i, j) for i, j in itertools.combinations(range(len(names)), 2) if i < len(backbones)]
    found = [paired_bootstrap(resampled, i, j, comparisons=len(pairs)) for i, j in pairs]
    adjusted = holm([each.p for each in found])
    intervals = {name: bootstrap_interval(resampled.scores[i]) for i, name in enumerate(names)}
    return {
        "resamples": RESAMPLES,
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


def read_predictions(path: Path, plan: Plan) -> NDArray[Any]:
    """The predictions for test rows in a CSV of a run, as `Objective.decode` gave them.

    Shape (N,), or (S, N) where the file has a column for each of S seeds.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name.startswith("predicted")]
    shown = [[row[name] for row in rows] for name in columns]
    if plan.objective.scale is not None:
        made: NDArray[Any] = np.array(shown, np.float64)
    else:
        number = {name: at for at, name in enumerate(plan.classes)}
        made = np.array([[number[name] for name in column] for column in shown], np.int64)
    return made if len(columns) > 1 else made[0]


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
