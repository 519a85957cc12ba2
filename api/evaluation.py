"""How a probe did on the test rows of its run: the run's CSV and results in, points out."""

from __future__ import annotations

import csv
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from api.errors import DamagedProbe
from api.page_schemas import TestPoint, TestPredictions
from embedstore.errors import StoreError
from probe.documents import read_json
from probe.plan import FORMAT
from probe.saved import ProbeInfo

log = logging.getLogger(__name__)

MAX_ROWS = 1_000_000
"""Rows of a CSV that are read."""


def test_predictions(name: str, info: ProbeInfo, run: Path | None, limit: int) -> TestPredictions:
    """Score, interval and test rows of a probe.

    Parameters
    ----------
    run : folder of the run that the probe is in; None: it is in none, and has no rows
    limit : points at most, drawn evenly and alike each time

    Raises
    ------
    DamagedProbe
        Its run cannot be read.
    """
    task = info.objective.task
    try:
        results = read_json(run / "results.json", "results", FORMAT) if run else {}
        backbone, column = _place(name, results)
        rows = _read_rows(run / "predictions" / f"{backbone}.csv") if run else []
        points = [_point(row, column, info) for row in _drawn(rows, limit)]
        interval, level = _interval(results, name)
    except (
        StoreError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        csv.Error,
    ) as error:
        log.error("test predictions of %s: %s", name, error)
        raise DamagedProbe(
            f"The test predictions of {name!r} cannot be read.",
            "The server's log says why; run `probe grid` again or restore its folder.",
        ) from error
    return TestPredictions(
        probe=name,
        kind="classification" if info.objective.classes else "regression",
        unit=task.unit,
        metric=task.metric,
        score=info.metrics.get("test", {}).get(task.metric),
        interval=interval,
        level=level,
        rows=len(rows),
        points=points,
    )


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV; none where the file is not there."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(islice(csv.DictReader(file), MAX_ROWS))
    except FileNotFoundError:
        return []


def _drawn(rows: list[dict[str, str]], limit: int) -> list[dict[str, str]]:
    if len(rows) <= limit:
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), limit, replace=False)
    return [rows[at] for at in np.sort(chosen).tolist()]


def _place(name: str, results: dict[str, Any]) -> tuple[str, str]:
    """The backbone of a probe and the column of its predictions: of several seeds, its own."""
    backbones = results.get("backbones", {})
    first, _, number = name.rpartition("-seed-")
    backbone = first if name not in backbones and first in backbones else name
    seeds = [str(each["seed"]) for each in backbones.get(backbone, {}).get("seeds", [])]
    if len(seeds) < 2:
        return backbone, "predicted"
    return backbone, f"predicted_{0 if backbone == name else seeds.index(number)}"


def _point(row: dict[str, str], column: str, info: ProbeInfo) -> TestPoint:
    true, predicted = row["true"], row[column]
    if info.objective.classes:
        return TestPoint(id=row["id"], true=true, predicted=predicted)
    numbers = float(true), float(predicted)
    if not np.isfinite(numbers).all():
        raise ValueError(f"row {row['id']!r} has no finite numbers")
    return TestPoint(id=row["id"], true=numbers[0], predicted=numbers[1])


def _interval(
    results: dict[str, Any], name: str
) -> tuple[tuple[float, float] | None, float | None]:
    """Interval of a probe's test score and its level, where the run has them."""
    found = results.get("comparisons", {})
    low, high = found.get("intervals", {}).get(name) or (None, None)
    if low is None or high is None:
        return None, None
    return (float(low), float(high)), found.get("level")
