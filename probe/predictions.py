"""Predictions for the test rows of a run: arrays in, CSV for people and scripts out, and back.

Shape letters: N test rows, S seeds.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.store.files import write_atomically
from probe.comparisons import input_groups

if TYPE_CHECKING:
    from probe.plan import Plan


def write_predictions(path: Path, plan: Plan, predicted: NDArray[Any]) -> None:
    """Write columns id, true and predicted; of several seeds predicted_0, predicted_1, ...

    Of several outputs there is a line for each, and a column output; per position a line for each
    position that has a label, and a column position (from 0).

    Parameters
    ----------
    predicted : as `Objective.decode` gives them, or with one axis more, in front, for S seeds
    """
    test = plan.examples("test")
    ids = [plan.split.ids[row] for row in test.rows.tolist()]
    seeds = predicted[None] if predicted.ndim == test.targets.ndim else predicted
    names = ["predicted"]
    if len(seeds) > 1:
        names = [f"predicted_{at}" for at in range(len(seeds))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if test.targets.ndim == 1:
        writer.writerow(["id", "true", *names])
        show = plan.objective.show
        writer.writerows(zip(ids, show(test.targets), *map(show, seeds), strict=True))
    else:
        by_position = plan.task.kind == "per-position"
        there = ~np.isnan(test.targets)
        columns = [test.targets[there], *(each[there] for each in seeds)]
        writer.writerow(["id", "position" if by_position else "output", "true", *names])
        units = plan.task.units
        for (row, at), *values in zip(np.argwhere(there).tolist(), *columns, strict=True):
            writer.writerow([ids[row], at if by_position else units[at], *map(float, values)])
    write_atomically(path, text.getvalue().encode())


def read_predictions(path: Path, plan: Plan) -> NDArray[Any]:
    """The predictions that `write_predictions` wrote; nan at positions without a label."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    columns = [at for at, name in enumerate(header) if name.startswith("predicted")]
    shown = [[row[at] for row in rows] for at in columns]
    targets = plan.examples("test").targets
    if plan.objective.scale is not None:
        there = ~np.isnan(targets)
        seeds = np.full((len(columns), *targets.shape), np.nan)
        seeds[:, there] = np.array(shown, np.float64)
    else:
        number = {name: at for at, name in enumerate(plan.classes)}
        seeds = np.array([[number[name] for name in column] for column in shown], np.int64)
    return seeds if len(seeds) > 1 else seeds[0]


def write_groups(path: Path, plan: Plan) -> None:
    """Which test rows share an input, so that runs can be compared without their store."""
    ids = [plan.split.ids[row] for row in plan.split.test.tolist()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "group"])
    writer.writerows(zip(ids, input_groups(plan).tolist(), strict=True))
    write_atomically(path, text.getvalue().encode())
