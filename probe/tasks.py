"""What a head is to predict: a collection's label columns in, targets by row out.

Shape letters: N rows, Q label columns, P positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from embedstore.label_columns import is_missing_mark
from probe.label_cells import (
    Cells,
    code_note,
    is_absent,
    numbers_of_text,
    read_cells,
    text_is_numbers,
)
from probe.metrics import OF_CLASSES, OF_NUMBERS, Metric, is_constant
from probe.number_cells import DecimalMark
from probe.position_labels import matrix_of_lists

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["regression", "classification", "per-position"]
Transform = Literal["log2", "log10", "log1p"]

_TRANSFORMS = {"log2": np.log2, "log10": np.log10, "log1p": np.log1p}
_SMALLEST = {"log2": 0.0, "log10": 0.0, "log1p": -1.0}  # a label must be greater than this

LARGEST = 1e30
"""Labels of a regression lie within plus and minus this, and the smallest spread is its inverse:
squares, their sums and what is computed from them stay finite, in float32 too."""
_EXACT = 2**53  # whole numbers up to here are themselves in float64


@dataclass(frozen=True, kw_only=True)
class Task:
    """Label columns, how they are read and how predictions of them are scored."""

    collection: str
    label: str
    """Column of the collection; several with commas: a regression with one output each."""
    kind: Kind
    """`per-position`: the column holds a list of numbers a row, for its first positions."""
    transform: Transform | None = None
    """Of a regression label: the task is then to predict, say, log2 of the column."""
    min_label: float | None = None
    """Rows with a smaller label are left out; in the column's unit, before the transform."""
    max_letters: int | None = None
    """Rows with a longer sequence are left out; letters of the record (nt or residues)."""
    scored_by: Metric | None = None
    """Another metric than the usual one of the kind."""
    balance: bool = False
    """Of a classification: rows weigh as much as their class is rare."""
    decimal: DecimalMark = "."
    """Of a regression on a column of text: the mark before the fraction of a number."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {get_args(Kind)}, got {self.kind!r}")
        if self.transform is not None and self.transform not in _TRANSFORMS:
            raise ValueError(f"transform must be one of {[*_TRANSFORMS]}, got {self.transform!r}")
        if self.min_label is not None and not math.isfinite(self.min_label):
            raise BadInput(f"--min-label is {self.min_label}.", "Give a finite number.")
        if self.max_letters is not None and self.max_letters < 1:
            raise ValueError(f"max_letters must be at least 1, got {self.max_letters}")
        if self.kind == "classification" and (self.transform or self.min_label is not None):
            raise BadInput(
                f"The classes of {self.label} have no logarithm and no minimum.",
                "Leave out --transform and --min-label, or ask for --kind regression.",
            )
        if self.kind == "per-position" and self.min_label is not None:
            raise BadInput(
                f"Rows of {self.label} have many labels each, so there is no smallest one to keep.",
                "Leave out --min-label.",
            )
        if self.kind != "classification" and self.balance:
            raise BadInput(
                f"{self.label} has no classes to balance.",
                "Leave out --balance, or ask for --kind classification.",
            )
        if self.decimal not in get_args(DecimalMark):
            raise ValueError(f"decimal must be one of {get_args(DecimalMark)}, got {self.decimal}")
        if self.kind != "regression" and self.decimal != ".":
            raise BadInput(
                f"{self.label} is a {self.kind} task, which reads no numbers from text.",
                "Leave out --decimal, or ask for --kind regression.",
            )
        if self.kind != "regression" and len(self.labels) > 1:
            raise BadInput(
                f"{self.label} are {len(self.labels)} columns of one {self.kind} task.",
                "Several columns make a regression; give one column, or --kind regression.",
            )
        if len(set(self.labels)) < len(self.labels):
            raise BadInput(f"{self.label} names a column twice.", "Name each label once.")
        if self.scored_by is not None and self.scored_by not in self._metrics:
            raise BadInput(
                f"A {self.kind} task is not scored by {self.scored_by}.",
                f"Its metrics are {', '.join(self._metrics)}.",
            )
        if self.scored_by == self._metrics[0]:
            object.__setattr__(self, "scored_by", None)  # the same task, told in two ways

    @property
    def _metrics(self) -> tuple[Metric, ...]:
        return OF_CLASSES if self.kind == "classification" else OF_NUMBERS

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns, one or Q of them."""
        return tuple(self.label.split(","))

    @property
    def metric(self) -> Metric:
        """The score that chooses and judges; of several outputs the mean over outputs."""
        return self.scored_by or self._metrics[0]

    @property
    def units(self) -> tuple[str, ...]:
        """What targets and predictions of each column are in, e.g. `log2(halflife)`."""
        if self.transform is None:
            return self.labels
        return tuple(f"{self.transform}({each})" for each in self.labels)

    @property
    def unit(self) -> str:
        """The units of all columns."""
        return ", ".join(self.units)

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name, and the metric; `decimal` only where it is no point.

        So a task is the same document as before there was a choice of decimal marks.
        """
        values = asdict(self)
        del values["scored_by"]
        if self.decimal == ".":
            del values["decimal"]
        return values | {"metric": self.metric}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Task:
        """The task that `as_json` gave.

        Raises
        ------
        KeyError, TypeError, ValueError
            The values are no task.
        """
        fields = dict(values)
        metric = fields.pop("metric")
        try:
            return cls(**fields, scored_by=metric)
        except BadInput as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """The rows of a collection that a task can use, and what is to be predicted for each."""

    rows: NDArray[np.int64]
    """Positions in the collection, shape (N,)."""
    targets: NDArray[Any]
    """Regression: float64, shape (N,), in the task's unit; (N, Q) of several columns. Per
    position: float64, shape (N, P), nan where a position has no label or lies behind the row's
    list. Classification: int64 class numbers, shape (N,)."""
    classes: tuple[str, ...]
    """Class names by number, sorted; empty for a regression."""
    dropped: dict[str, int]
    """Rows left out, by reason; every possible reason of the task is listed."""
    positions: NDArray[np.int64] | None = None
    """Per position: shape (N,), the length of each row's list."""
    notes: tuple[str, ...] = ()
    """What people should know of how the column was read, one sentence each."""


def infer_kind(table: pa.Table, label: str, decimal: DecimalMark = ".") -> Kind:
    """The kind of task that label columns are for, where only one is possible.

    Numbers are a regression, and so is text that reads as numbers; other text, true and false are
    classes. Lists of numbers are per position where each is as long as its sequence.

    Parameters
    ----------
    label : column, or several with commas
    decimal : as in `Task`

    Raises
    ------
    BadInput
        There is no such label column, it holds none of these, several do not hold the same, most
        cells of a text column are numbers and some are not, or lists could be something else than
        the labels of first positions.
    """
    columns = [read_cells(table, name) for name in label.split(",")]
    kind = _shared_kind(columns, decimal)
    for cells in columns:
        if cells.form == "lists":
            _expect_whole_sequences(cells, _letters(table))
    return kind


def _shared_kind(columns: Sequence[Cells], decimal: DecimalMark) -> Kind:
    """What columns are for together."""
    kinds = {cells.name: _natural_kind(cells, decimal) for cells in columns}
    if len(set(kinds.values())) > 1:
        shown = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise BadInput(f"The columns do not go together ({shown}).", "Give columns of numbers.")
    return kinds.popitem()[1]


def _natural_kind(cells: Cells, decimal: DecimalMark) -> Kind:
    """What a column is for if nobody says otherwise."""
    if cells.form == "lists":
        return "per-position"
    if cells.form == "numbers" or (cells.form == "text" and text_is_numbers(cells, decimal)):
        return "regression"
    return "classification"


def _letters(table: pa.Table) -> NDArray[np.int64]:
    """The length of each sequence, shape (N,)."""
    from pyarrow.compute import utf8_length

    letters: NDArray[np.int64] = utf8_length(table.column("sequence")).to_numpy()
    return letters


def _expect_whole_sequences(cells: Cells, letters: NDArray[np.int64]) -> None:
    """Raise BadInput where lists need not be labels of positions: one is not as long as its row."""
    rows = [row for row, value in enumerate(cells.values) if value is not None]
    counts = np.array([len(cells.values[row]) for row in rows], np.int64)
    other = counts != letters[rows]
    if not other.any():
        return
    first = int(other.argmax())
    row = rows[first]
    raise BadInput(
        f"{cells.name} holds lists of {_range(counts)} numbers for sequences of "
        f"{_range(letters[rows])} letters ({cells.ids[row]}: {counts[first]} for {letters[row]}), "
        "which need not be labels of positions.",
        "Ask for --kind per-position if they belong to the first positions of their sequences; "
        "else build a collection with a column for each number.",
    )


def _range(values: NDArray[np.int64]) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def read_labels(table: pa.Table, task: Task) -> Labels:
    """The labels of a task, from a collection's table.

    A blank cell is no label. Of a text column that is regressed, cells like NA and nan are none
    either; as classes they stay, and a note names them.

    Parameters
    ----------
    table : columns `id`, `sequence` and the labels
    task : its `collection` is not read

    Raises
    ------
    BadInput
        A column is missing or does not fit the kind, a cell is no number, a label has no logarithm
        or is beyond `LARGEST`, a list is longer than its sequence, or the rows that are left have
        no two different labels.
    """
    read = [read_cells(table, name) for name in task.labels]
    if len(read) > 1:
        _shared_kind(read, task.decimal)
    columns = {cells.name: _values_for(cells, task) for cells in read}
    usable = np.ones(table.num_rows, np.bool_)
    dropped = {}
    for cells in read:
        among = "" if len(read) == 1 else f" as {cells.name}"
        blank = [value is None for value in cells.values]
        reasons = {"no label" if len(read) == 1 else f"no {cells.name}": blank}
        if cells.form == "text" and task.kind == "regression":
            for mark in sorted(cells.missing_marks()):
                reasons[f"{mark!r}{among}"] = [value == mark for value in cells.values]
        for reason, gone in reasons.items():
            there = ~np.array(gone, np.bool_)
            dropped[reason] = int((usable & ~there).sum())
            usable &= there
    letters = _letters(table)
    if task.max_letters is not None:
        short = letters <= task.max_letters
        reason = f"sequence longer than {task.max_letters} letters"
        dropped[reason] = int((usable & ~short).sum())
        usable &= short
    if task.min_label is not None:
        raws = zip(*columns.values(), strict=True)
        least = task.min_label
        large = [all(not is_absent(v) and v >= least for v in values) for values in raws]
        dropped[f"label below {least:g}"] = int((usable & ~np.array(large, np.bool_)).sum())
        usable &= np.array(large, np.bool_)
    rows = np.flatnonzero(usable)
    ids = table.column("id").take(rows).to_pylist()
    kept = [[raw[row] for row in rows.tolist()] for raw in columns.values()]
    notes = tuple(_notes(read, task))
    if task.kind == "per-position":
        matrix, positions = matrix_of_lists(kept[0], ids, letters[rows])
        there = ~np.isnan(matrix)
        owners = np.repeat(ids, there.sum(axis=1)).tolist()
        matrix[there] = _numbers(matrix[there], owners, task, task.label)
        return Labels(rows=rows, targets=matrix, classes=(), dropped=dropped, positions=positions)
    if task.kind == "regression":
        outputs = [
            _numbers(np.array(values, np.float64), ids, task, name)
            for name, values in zip(task.labels, kept, strict=True)
        ]
        targets = outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=1)
        return Labels(rows=rows, targets=targets, classes=(), dropped=dropped, notes=notes)
    numbers, classes = _class_numbers(kept[0], ids, task.label)
    marks = [
        f"{name!r} ({int((numbers == at).sum()):,} rows)"
        for at, name in enumerate(classes)
        if is_missing_mark(name)
    ]
    if marks:
        one = len(marks) == 1
        notes += (
            f"{'A class' if one else 'Classes'} of {task.label} {'is' if one else 'are'} named "
            f"like a missing value: {', '.join(marks)}. Leave such cells empty if the rows have no "
            "label.",
        )
    return Labels(rows=rows, targets=numbers, classes=classes, dropped=dropped, notes=notes)


def _values_for(cells: Cells, task: Task) -> list[Any]:
    """The cells of a column as the kind of task takes them, None where there is no label."""
    if cells.form == "text" and task.kind == "regression":
        return numbers_of_text(cells, task.decimal)
    natural = _natural_kind(cells, task.decimal) if cells.form != "text" else "classification"
    _check_kind(natural, task)
    if task.decimal != "." and any(isinstance(value, float) for value in cells.values):
        raise BadInput(
            f"{cells.name} was read as numbers with a decimal point when the collection was built.",
            "Leave out --decimal, or build the collection with the column as text.",
        )
    return cells.values


def _notes(read: Sequence[Cells], task: Task) -> Iterator[str]:
    """How columns of text were read, where that is not plain to see."""
    for cells in read:
        if cells.form != "text":
            continue
        if task.kind == "regression":
            texts = [text for _, text in cells.texts()]
            if all(text.isdecimal() for text in texts):
                yield (
                    f"{cells.name} is text, but every cell is a whole number, so numbers are "
                    "predicted; if they name classes, ask for --kind classification."
                )
        elif (note := code_note(cells)) is not None:
            yield note


def _check_kind(natural: Kind, task: Task) -> None:
    """Raise BadInput where columns of one kind cannot serve a task of another."""
    if natural == task.kind or (natural, task.kind) == ("regression", "classification"):
        return
    holds = {
        "regression": "one number a row",
        "classification": "classes, not numbers",
        "per-position": "a list of numbers a row",
    }
    raise BadInput(
        f"The column {task.label} holds {holds[natural]}.",
        f"Ask for --kind {natural}, or choose another column.",
    )


def _class_numbers(
    values: list[Any], ids: list[str], label: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The class number of each row, and the names of the classes."""
    names = [_class_name(value, id, label) for value, id in zip(values, ids, strict=True)]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2 or 2 * len(classes) > len(names):
        raise BadInput(
            f"{label} has {len(classes)} classes in {len(names)} rows.",
            "A classification needs two or more classes, with two or more rows each on average.",
        )
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in names], np.int64), classes


def _numbers(
    values: NDArray[np.float64], ids: Sequence[str], task: Task, label: str
) -> NDArray[np.float64]:
    """Labels of one column, checked and transformed."""
    if not np.isfinite(values).all():
        bad = ids[int(np.isfinite(values).argmin())]
        raise BadInput(f"The label of {bad} is infinite.", "Correct it or leave it empty.")
    if task.transform is not None:
        positive = values > _SMALLEST[task.transform]
        if not positive.all():
            worst = int(positive.argmin())
            raise BadInput(
                f"{ids[worst]} has the label {values[worst]:g}, which has no {task.transform}.",
                "Leave such rows out with --min-label, or use --transform log1p.",
            )
        values = _TRANSFORMS[task.transform](values)
    beyond = np.abs(values) > LARGEST
    if beyond.any():
        worst = int(beyond.argmax())
        raise BadInput(
            f"The label of {ids[worst]} is {values[worst]:g}, beyond the {LARGEST:g} that can be "
            "computed with.",
            f"Correct it, write {label} in another unit, or use --transform log10.",
        )
    if is_constant(values):
        raise BadInput(
            f"The {len(values)} usable labels of {label} do not differ.",
            "Choose another label column or other filters.",
        )
    if np.std(values) < 1 / LARGEST:
        raise BadInput(
            f"The labels of {label} differ by about {np.ptp(values):.0e} only, too little to "
            "compute with.",
            "Write them in another unit.",
        )
    return values


def _class_name(value: Any, id: str, label: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not value.is_integer():
            raise BadInput(
                f"{id} has the label {value:g}, which is no class.",
                f"Ask for --kind regression, or store the classes of {label} as text.",
            )
        if abs(value) > _EXACT:
            raise BadInput(
                f"{id} has the label {value:g}, too large to be one class for certain.",
                f"Ask for --kind regression, or store the classes of {label} as text.",
            )
        return str(int(value))
    return str(value)
