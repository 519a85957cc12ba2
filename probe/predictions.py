"""Predictions for the test rows of a run: arrays in, CSV for people and scripts out, and back.

Shape letters: N test rows, S seeds.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from embedstore.store.files import write_atomically
from probe.comparisons import input_groups
from probe.documents import RESTORE, open_within, reading

if TYPE_CHECKING:
    from probe.plan import Plan

GROUPS = "test_groups.csv"
MOST = 1 << 30
"""Bytes of a CSV file that is read back."""
MOST_LINE = 1 << 20
"""Letters of one of its lines; csv takes no cell of more than an eighth of them."""


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
    """The predictions that `write_predictions` wrote; nan at positions without a label.

    Raises
    ------
    BadInput
        The file is missing or damaged, or of other test rows.
    """
    targets = plan.examples("test").targets
    there = np.ones(len(targets), np.bool_) if targets.ndim == 1 else ~np.isnan(targets)
    found = read_test_rows(path, plan.classes, within=path.parent.parent)
    if found is None or len(found.ids) != int(there.sum()):
        raise BadInput(f"{str(path)!r} is damaged: it has other test rows.", RESTORE)
    if plan.classes:
        number = {name: at for at, name in enumerate(plan.classes)}
        seeds: NDArray[Any] = np.vectorize(number.__getitem__, [np.int64])(found.predicted)
    else:
        seeds = np.full((len(found.predicted), *targets.shape), np.nan)
        seeds[:, there] = found.predicted
    return seeds if len(seeds) > 1 else seeds[0]


@dataclass(frozen=True, eq=False)
class TestRows:
    """What was predicted for the test rows; N of them, or of their outputs or positions."""

    __test__ = False  # not one of pytest's

    ids: tuple[str, ...]
    """Of the row, shape (N,)."""
    true: NDArray[Any]
    """float64, finite, or str class names, shape (N,)."""
    predicted: NDArray[Any]
    """As `true`, shape (S, N); nan where a head of an older run gave nothing finite."""


def read_test_rows(path: Path, classes: Sequence[str] | None, *, within: Path) -> TestRows | None:
    """A CSV file of predictions, without its run's plan, checked row by row.

    Parameters
    ----------
    classes : of the task; empty: numbers; None: some classes, whatever their names
    within : folder of the run

    Returns
    -------
    None where the file has other columns altogether, or lists of numbers in its lines, as older
    runs of several outputs wrote them.

    Raises
    ------
    BadInput
        It is missing, or a line is not what it should be: file and line are named.
    """
    rows = _read_table(path, within)
    header = next(rows, (0, []))[1]
    if "true" not in header and not any(name.startswith("predicted") for name in header):
        _check_all(rows)
        return None
    places = [name for name in header if name in ("position", "output")]
    count = len(header) - len(places) - 2
    names = ["predicted"] if count == 1 else [f"predicted_{at}" for at in range(count)]
    if count < 1 or len(places) > 1 or header != ["id", *places, "true", *names]:
        raise _damaged(path, f"its columns are {', '.join(header)[:200]}")
    numbers = classes is not None and not classes
    ids, first, shown = [], len(header) - count - 1, []
    for line, row in rows:
        if numbers and row[first].startswith("[") and row[first].endswith("]"):
            _check_all(rows)
            return None
        ids.append(row[0])
        shown.append([_value(cell, classes, path, line) for cell in row[first:]])
        if numbers and not math.isfinite(shown[-1][0]):
            raise _damaged(path, f"line {line} says {row[first]!r} is true")
    kind: Any = np.float64 if numbers else np.str_
    columns = np.array(shown, kind).reshape(len(ids), count + 1).T
    return TestRows(tuple(ids), columns[0], columns[1:])


def read_groups(run: Path) -> dict[str, str] | None:
    """By id, which test rows of a run share an input; None where the run did not write it down.

    Raises
    ------
    BadInput
        A line is not what it should be: file and line are named.
    """
    path = run / GROUPS
    if not os.path.lexists(path):
        return None
    rows = _read_table(path, run)
    header = next(rows, (0, []))[1]
    if header != ["id", "group"]:
        raise _damaged(path, f"its columns are {', '.join(header)[:200]}")
    found: dict[str, str] = {}
    for line, (id, group) in rows:
        if id in found or not (group.isascii() and group.isdigit()):
            raise _damaged(path, f"line {line} is {id!r}, {group!r}")
        found[id] = group
    return found


def _read_table(path: Path, within: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file with the number of the line that each ends in, its header first.

    No more than a line is held, whatever the file declares.
    """
    try:
        file = open_within(path, MOST, within)
    except FileNotFoundError:
        raise BadInput(f"{str(path)!r} is missing.", RESTORE) from None
    with reading(path), io.TextIOWrapper(file, "utf-8", newline="") as text:
        lines = csv.reader(_lines(path, text), strict=True)
        width = None
        try:
            for row in lines:
                if width is not None and len(row) != width:
                    said = f"line {lines.line_num} has {len(row)} cells of {width}"
                    raise _damaged(path, said)
                width = len(row)
                yield lines.line_num, row
        except UnicodeDecodeError:
            raise _damaged(path, f"after line {lines.line_num} it is no UTF-8") from None
        except csv.Error as error:
            raise _damaged(path, f"after line {lines.line_num}, {error}") from None


def _check_all(rows: Iterator[tuple[int, list[str]]]) -> None:
    for _ in rows:
        pass


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MOST_LINE):
        if len(line) == MOST_LINE:
            raise _damaged(path, f"a line has more than {MOST_LINE} letters")
        yield line


def _value(cell: str, classes: Sequence[str] | None, path: Path, line: int) -> Any:
    """A class name, or a number."""
    if classes is None or cell in classes:
        return cell
    if classes:
        raise _damaged(path, f"line {line} names the class {cell[:60]!r}")
    try:
        if cell.isascii() and "_" not in cell:
            return float(cell)
    except ValueError:
        pass
    raise _damaged(path, f"line {line} has {cell[:60]!r} in the place of a number")


def _damaged(path: Path, why: str) -> BadInput:
    return BadInput(f"{str(path)!r} is damaged: {why}.", RESTORE)


def write_groups(path: Path, plan: Plan) -> None:
    """Which test rows share an input, so that runs can be compared without their store."""
    ids = [plan.split.ids[row] for row in plan.split.test.tolist()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "group"])
    writer.writerows(zip(ids, input_groups(plan).tolist(), strict=True))
    write_atomically(path, text.getvalue().encode())
