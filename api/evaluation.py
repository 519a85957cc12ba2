"""How a probe did on the test rows of its run: the run's CSV and results in, points out."""

from __future__ import annotations

import logging
import os

import numpy as np

from api.errors import DamagedProbe
from api.page_schemas import TestPoint, TestPredictions
from api.probe_folders import Place
from embedstore.errors import StoreError
from probe.predictions import TestRows, read_test_rows
from probe.run_documents import ResultsDocument, read_results
from probe.saved import ProbeInfo

log = logging.getLogger(__name__)


def test_predictions(name: str, info: ProbeInfo, place: Place, limit: int) -> TestPredictions:
    """Score, interval and test rows of a probe.

    Parameters
    ----------
    place : of the probe; where it is in no run, it has no rows
    limit : points at most, drawn evenly and alike each time

    Raises
    ------
    DamagedProbe
        Its run cannot be read.
    """
    task = info.objective.task
    interval, level, rows, column = None, None, None, 0
    try:
        if place.run is not None:
            results = read_results(place.run)
            backbone, column = _column(place.own_name, results)
            path = place.run / "predictions" / f"{backbone}.csv"
            if os.path.lexists(path):
                rows = read_test_rows(path, info.objective.classes, within=place.run)
            interval, level = _interval(results, place.own_name)
        points = [] if rows is None else _points(rows, column, limit, info)
    except (StoreError, ValueError, IndexError) as error:
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
        rows=0 if rows is None else len(rows.ids),
        points=points,
    )


def _column(name: str, results: ResultsDocument) -> tuple[str, int]:
    """The backbone of a probe and the number of its predictions: of several seeds, its own."""
    first, _, number = name.rpartition("-seed-")
    backbone = first if name not in results.backbones and first in results.backbones else name
    if backbone == name:
        return name, 0
    seeds = [str(each.seed) for each in results.backbones[backbone].seeds]
    return backbone, seeds.index(number)


def _points(rows: TestRows, column: int, limit: int, info: ProbeInfo) -> list[TestPoint]:
    """Some of the rows, all where they are few.

    Raises
    ------
    ValueError, IndexError
        The seed has no finite predictions there.
    """
    chosen = np.arange(len(rows.ids))
    if len(chosen) > limit:
        chosen = np.sort(np.random.default_rng(0).choice(len(chosen), limit, replace=False))
    predicted = rows.predicted[column]
    if not info.objective.classes and not np.isfinite(predicted).all():
        raise ValueError("a prediction is not finite")
    return [
        TestPoint(id=rows.ids[at], true=true, predicted=said)
        for at, true, said in zip(
            chosen.tolist(), rows.true[chosen].tolist(), predicted[chosen].tolist(), strict=True
        )
    ]


def _interval(
    results: ResultsDocument, name: str
) -> tuple[tuple[float, float] | None, float | None]:
    """Interval of a probe's test score and its level, where the run has them."""
    found = results.comparisons
    low, high = (None, None) if found is None else found.intervals.get(name, (None, None))
    if found is None or low is None or high is None:
        return None, None
    return (low, high), found.level
