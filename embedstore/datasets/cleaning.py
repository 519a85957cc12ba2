"""Cleaning of a data set: source tables and a preset in, records for a build and counts out.

Letters, coding rule and length are those of `records` and `dogma`; nothing is left out uncounted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from embedstore.datasets.entry import DataSet, Preset
from embedstore.dogma import Unreadable
from embedstore.errors import BadInput
from embedstore.records import RESERVED, Records, check_sequence

AVERAGED = "rows_averaged"
"""Column with the number of source rows behind a row, where rows are averaged."""


@dataclass(frozen=True)
class Step:
    """Rows that one step of the cleaning took away."""

    what: str
    dropped: int
    left: int


def clean(entry: DataSet, table: pa.Table, preset: Preset) -> tuple[Records, list[Step]]:
    """Apply a preset.

    Parameters
    ----------
    table : every part of the data set, as its source has it
    preset : that of the data set, or one that differs from it

    Returns
    -------
    The records, with ids and labels, and the steps in their order: one for each rule of the
    preset, and for each reason against a coding sequence that was met.

    Raises
    ------
    BadInput
        A column is missing, or no row is left.
    """
    _check_columns(entry, table, preset)
    steps: list[Step] = []
    numbers = list(range(table.num_rows))
    if preset.keep is not None:
        column, value = preset.keep
        values = table.column(column).to_pylist()
        numbers = [number for number in numbers if values[number] == value]
        steps.append(Step(f"{column} is not {value}", table.num_rows - len(numbers), len(numbers)))
    records = _read_rows(entry, table, numbers, steps)
    if preset.coding:
        records = _coding_rows(records, steps)
    if preset.max_nt is not None:
        records = _short_rows(records, preset.max_nt, steps)
    if not records.rows:
        counts = "; ".join(f"{step.what}: {step.dropped}" for step in steps if step.dropped)
        raise BadInput(
            f"No row of {entry.name} is left ({counts}).",
            "Fetch it --raw and look at it, or raise --max-nt.",
        )
    if preset.average:
        records = _average(records, steps)
    return _name_rows(records, entry.id_column), steps


def _check_columns(entry: DataSet, table: pa.Table, preset: Preset) -> None:
    wanted = [entry.sequence_column, entry.target.label]
    wanted += [entry.id_column] if entry.id_column else []
    wanted += [preset.keep[0]] if preset.keep else []
    for column in wanted:
        if column not in table.column_names:
            raise BadInput(
                f"{entry.name} has no column {column!r}, though its checksum is right.",
                f"It has: {', '.join(table.column_names)}. Fetch it --raw and build from that.",
            )


def _read_rows(
    entry: DataSet, table: pa.Table, numbers: Sequence[int], steps: list[Step]
) -> Records:
    """Rows by the number they have in the source, from 1; unreadable ones are counted."""
    texts = table.column(entry.sequence_column).to_pylist()
    rows, kept = [], []
    for number in numbers:
        name = f"row-{number + 1}"
        try:
            text = texts[number] or ""
            rows.append(check_sequence(name, text, entry.molecule, f"{entry.name}, {name}"))
        except BadInput:
            continue
        kept.append(number)
    what = f"no sequence, or letters that no {entry.molecule} has"
    steps.append(Step(what, len(numbers) - len(rows), len(rows)))
    labels = table.drop_columns([entry.sequence_column]).take(pa.array(kept, pa.int64()))
    return Records(rows, labels, 0, [])


def _coding_rows(records: Records, steps: list[Step]) -> Records:
    kept = []
    reasons: Counter[str] = Counter()
    for at, row in enumerate(records.rows):
        try:
            row.view("cds")
        except Unreadable as error:
            reasons[error.reason] += 1
        else:
            kept.append(at)
    left = len(records.rows)
    for reason, count in sorted(reasons.items()):
        left -= count
        steps.append(Step(f"no coding sequence: {reason}", count, left))
    if not reasons:
        steps.append(Step("no coding sequence", 0, left))
    return records.take(kept)


def _short_rows(records: Records, max_nt: int, steps: list[Step]) -> Records:
    """As `build --max-nt` leaves rows out, but none is an empty table here and no error."""
    short = any(len(row.sequence) <= max_nt for row in records.rows)
    kept = records.within(max_nt) if short else records.take([])
    left = len(kept.rows)
    steps.append(Step(f"longer than {max_nt} nt", len(records.rows) - left, left))
    return kept


def _average(records: Records, steps: list[Step]) -> Records:
    """One row a sequence, where it first stands.

    Numbers become the mean of those that are there, text the different values with `;` between.
    """
    groups: dict[str, list[int]] = {}
    for at, row in enumerate(records.rows):
        groups.setdefault(row.sequence, []).append(at)
    columns = {
        name: _merged(records.labels.column(name), list(groups.values()))
        for name in records.labels.column_names
    }
    columns[AVERAGED] = pa.array([len(group) for group in groups.values()], pa.int64())
    merged = len(records.rows) - len(groups)
    steps.append(Step("averaged into the row of the same sequence", merged, len(groups)))
    first = records.take([group[0] for group in groups.values()])
    return replace(first, labels=pa.table(columns))


def _merged(column: pa.ChunkedArray, groups: Sequence[Sequence[int]]) -> pa.Array:
    values = column.to_pylist()
    present = [[v for at in group if (v := values[at]) is not None] for group in groups]
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        means = [math.fsum(group) / len(group) if group else None for group in present]
        return pa.array(means, pa.float64())
    joined = [";".join(dict.fromkeys(map(str, group))) if group else None for group in present]
    return pa.array(joined, pa.string())


def _name_rows(records: Records, id_column: str | None) -> Records:
    """Ids from a column where they can serve; the number of the row in the source elsewhere."""
    labels = records.labels
    if id_column is not None:
        names = [str(name or "").strip() for name in labels.column(id_column).to_pylist()]
        if len(set(names)) == len(names) and all(n and n.isprintable() for n in names):
            rows = [replace(row, id=name) for name, row in zip(names, records.rows, strict=True)]
            records = replace(records, rows=rows)
            labels = labels.drop_columns([id_column])
    # names that the table of a collection keeps for itself
    names = [f"source_{n}" if RESERVED.fullmatch(n) else n for n in labels.column_names]
    return replace(records, labels=labels.rename_columns(names))
