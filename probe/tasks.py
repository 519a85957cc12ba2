"""What a head is to predict: a collection's label column in, targets by row out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput
from embedstore.records import RESERVED
from probe.metrics import Metric, is_constant

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["regression", "classification"]
Transform = Literal["log2", "log10", "log1p"]

_TRANSFORMS = {"log2": np.log2, "log10": np.log10, "log1p": np.log1p}
_SMALLEST = {"log2": 0.0, "log10": 0.0, "log1p": -1.0}  # a label must be greater than this


@dataclass(frozen=True, kw_only=True)
class Task:
    """One label column, how it is read and how predictions of it are scored."""

    collection: str
    label: str
    """Column of the collection."""
    kind: Kind
    transform: Transform | None = None
    """Of a regression label: the task is then to predict, say, log2 of the column."""
    min_label: float | None = None
    """Rows with a smaller label are left out; in the column's unit, before the transform."""
    max_letters: int | None = None
    """Rows with a longer sequence are left out; letters of the record (nt or residues)."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {get_args(Kind)}, got {self.kind!r}")
        if self.transform is not None and self.transform not in _TRANSFORMS:
            raise ValueError(f"transform must be one of {[*_TRANSFORMS]}, got {self.transform!r}")
        if self.max_letters is not None and self.max_letters < 1:
            raise ValueError(f"max_letters must be at least 1, got {self.max_letters}")
        if self.kind == "classification" and (self.transform or self.min_label is not None):
            raise BadInput(
                f"The classes of {self.label} have no logarithm and no minimum.",
                "Leave out --transform and --min-label, or ask for --kind regression.",
            )

    @property
    def metric(self) -> Metric:
        """The score that chooses and judges."""
        return "spearman" if self.kind == "regression" else "accuracy"

    @property
    def unit(self) -> str:
        """What targets and predictions are in, e.g. `log2(halflife)`."""
        return f"{self.transform}({self.label})" if self.transform else self.label

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name, and the metric."""
        return asdict(self) | {"metric": self.metric}

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
        task = cls(**fields)
        if metric != task.metric:
            raise ValueError(f"a {task.kind} is not scored by {metric!r}")
        return task


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """The rows of a collection that a task can use, and what is to be predicted for each."""

    rows: NDArray[np.int64]
    """Positions in the collection, shape (N,)."""
    targets: NDArray[Any]
    """Regression: float64, shape (N,), in the task's unit. Classification: int64 class numbers."""
    classes: tuple[str, ...]
    """Class names by number, sorted; empty for a regression."""
    dropped: dict[str, int]
    """Rows left out, by reason; every possible reason of the task is listed."""


def infer_kind(table: pa.Table, label: str) -> Kind:
    """Strings and booleans are classes, numbers are a regression.

    Raises
    ------
    BadInput
        There is no such label column, or it holds neither text, truth values nor numbers.
    """
    import pyarrow.types as types

    dtype = _label_column(table, label).type
    if types.is_string(dtype) or types.is_large_string(dtype) or types.is_boolean(dtype):
        return "classification"
    if types.is_integer(dtype) or types.is_floating(dtype):
        return "regression"
    raise BadInput(
        f"The column {label} holds {dtype}.", "Labels are numbers, text or true and false."
    )


def read_labels(table: pa.Table, task: Task) -> Labels:
    """The labels of a task, from a collection's table.

    Parameters
    ----------
    table : columns `id`, `sequence` and the label
    task : its `collection` is not read

    Raises
    ------
    BadInput
        The column is missing or does not fit the kind, a label has no logarithm, or the rows
        that are left have no two different labels.
    """
    from pyarrow.compute import utf8_length

    natural = infer_kind(table, task.label)
    if task.kind == "regression" and natural == "classification":
        raise BadInput(
            f"The column {task.label} holds classes, not numbers.",
            "Ask for --kind classification, or choose a column of numbers.",
        )
    raw = _label_column(table, task.label).to_pylist()
    usable = np.array([not _is_absent(value) for value in raw], np.bool_)
    dropped = {"no label": int((~usable).sum())}
    if task.max_letters is not None:
        short = utf8_length(table.column("sequence")).to_numpy() <= task.max_letters
        reason = f"sequence longer than {task.max_letters} letters"
        dropped[reason] = int((usable & ~short).sum())
        usable &= short
    if task.min_label is not None:
        large = np.array([not _is_absent(v) and v >= task.min_label for v in raw], np.bool_)
        dropped[f"label below {task.min_label:g}"] = int((usable & ~large).sum())
        usable &= large
    rows = np.flatnonzero(usable)
    kept = [raw[row] for row in rows.tolist()]
    ids = table.column("id").take(rows).to_pylist()
    if task.kind == "regression":
        return Labels(rows=rows, targets=_numbers(kept, ids, task), classes=(), dropped=dropped)
    names = [_class_name(value, id, task.label) for value, id in zip(kept, ids, strict=True)]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2 or 2 * len(classes) > len(names):
        raise BadInput(
            f"{task.label} has {len(classes)} classes in {len(names)} rows.",
            "A classification needs two or more classes, with two or more rows each on average.",
        )
    number = {name: i for i, name in enumerate(classes)}
    targets = np.array([number[name] for name in names], np.int64)
    return Labels(rows=rows, targets=targets, classes=classes, dropped=dropped)


def _label_column(table: pa.Table, label: str) -> pa.ChunkedArray:
    known = [name for name in table.column_names if not RESERVED.match(name)]
    if label not in known:
        raise BadInput(
            f"There is no label column {label!r}.",
            f"Known: {', '.join(known)}." if known else "Build the collection with labels.",
        )
    return table.column(label)


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _numbers(kept: list[Any], ids: list[str], task: Task) -> NDArray[np.float64]:
    values = np.array(kept, np.float64)
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
    if is_constant(values):
        raise BadInput(
            f"The {len(values)} usable labels of {task.label} do not differ.",
            "Choose another label column or other filters.",
        )
    return values


def _class_name(value: Any, id: str, label: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not value.is_integer():
            raise BadInput(
                f"{id} has the label {value:g}, which is no class.",
                f"Ask for --kind regression, or write the classes of {label} as text.",
            )
        return str(int(value))
    return str(value)
