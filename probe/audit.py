"""What a data set allows, before anything is trained: targets and keys in, facts and doubts out.

It needs the table of a collection alone, no embedding. Doubts come as sentences: a warning is for
people to weigh, a refusal names what cannot work.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.ceilings import Ceiling, classification_ceilings, regression_ceilings
from probe.class_counts import class_counts, doubt_classes, name_counts
from probe.documents import or_none
from probe.metrics import is_constant
from probe.splits import Split
from probe.statistics import smallest_detectable_accuracy, smallest_detectable_spearman

OUTLYING = 3.5
"""Modified z-score from which a label is an outlier (Iglewicz and Hoaglin 1993)."""
EXTREME = 10.0
"""Modified z-score of a label that looks like a mistake or a wrong unit."""
MANY = 0.01
"""Share of outliers that a bell-shaped label does not have."""
LOW_CEILING = 0.9
"""Best possible score below which the labels of identical inputs are worth a warning."""
RARE = 0.9
"""Share of rows in one class from which accuracy says little."""


@dataclass(frozen=True, kw_only=True)
class ViewAudit:
    """What one view shows of the rows."""

    view: str
    rows: int
    """Rows that have the view."""
    distinct: int
    """Different inputs among them."""
    repeated: int
    """Rows whose input another row has too."""
    largest: int
    """Rows of the most frequent input."""
    ceilings: tuple[Ceiling, ...]
    """R2 and Spearman of a regression, accuracy of a classification."""
    test: int
    """Test rows that have the view."""
    test_in_train: int
    """Of those, rows whose input also stands in train."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return asdict(self) | {"ceilings": [each.as_json() for each in self.ceilings]}


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Labels far from the others, by the modified z-score 0.6745 (y - median) / MAD."""

    count: int
    """Labels beyond `OUTLYING`; 0 where half of all labels or more are equal (MAD is 0)."""
    furthest: str
    """Id of the row furthest from the median."""
    score: float
    """Its modified z-score, with its sign; nan where MAD is 0."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name; None for nan."""
        return asdict(self) | {"score": or_none(self.score)}


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Facts about the usable rows of a task, and what follows from them."""

    rows: int
    parts: dict[str, int]
    """Rows of train, validation and test."""
    views: tuple[ViewAudit, ...]
    outliers: Outliers | None
    """Of a regression."""
    majority: float | None
    """Of a classification: share of the most frequent class."""
    classes: dict[str, dict[str, int]] | None
    """Of a classification: rows of each class in each part."""
    smallest_detectable: float
    """Smallest Spearman, or accuracy above the majority's, that a test of this size tells from
    chance at 5 %, two-sided, with power 80 %, if its rows are independent."""
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name; None for nan."""
        return asdict(self) | {
            "views": [each.as_json() for each in self.views],
            "outliers": None if self.outliers is None else self.outliers.as_json(),
            "smallest_detectable": or_none(self.smallest_detectable),
            "warnings": list(self.warnings),
            "refusals": list(self.refusals),
        }


def audit_rows(
    targets: NDArray[Any],
    keys: Mapping[str, Sequence[str | None]],
    split: Split,
    classes: Sequence[str] = (),
    *,
    outputs: Mapping[str, NDArray[np.float64]] = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> Audit:
    """Look at labels, inputs and split together.

    Parameters
    ----------
    targets : float64 numbers or int64 class numbers, shape (N,). Numbers of shape (N, P), one for
        each of P positions, are audited by their mean over positions, nan left out.
    keys : by view, the key of each of the N rows; None where a row has no such view
    split : of the same N rows
    classes : names by number; empty for a regression
    outputs : by name, the labels of each of several outputs, shape (N,)
    notes : what is to be known of how labels were read; they come first among the warnings
    """
    judged = {"": targets, **outputs}
    if targets.ndim == 2:
        targets = np.nanmean(targets, axis=1)
    numbers = {view: _numbers_of(column) for view, column in keys.items()}
    counts = class_counts(targets, split, classes) if classes else None
    known = None if counts is None else counts[targets, 0] > 0
    lost = 0.0 if known is None else float((~known).mean())
    views = tuple(
        _audit_view(view, inputs, targets, split, known) for view, inputs in numbers.items()
    )
    tests = len(split.test)
    outliers = majority = None
    if classes:
        majority = float(np.bincount(targets).max() / len(targets))
        smallest = smallest_detectable_accuracy(tests, majority)
    else:
        outliers = _find_outliers(targets, split.ids)
        smallest = smallest_detectable_spearman(tests)
    refused = {view: _refuse_inputs(inputs, split) for view, inputs in numbers.items()}
    doubted = [view for view in views if refused[view.view] is None]
    return Audit(
        rows=len(targets),
        parts={part: len(rows) for part, rows in split.parts.items()},
        views=views,
        outliers=outliers,
        majority=majority,
        classes=None if counts is None else name_counts(counts, classes),
        smallest_detectable=smallest,
        warnings=(
            *notes,
            *_doubt_labels(len(targets), outliers, majority),
            *(() if counts is None else doubt_classes(counts, classes)),
            *_by_view({view.view: _doubt_split(view) for view in doubted}),
            *_by_view({view.view: _doubt_ceiling(view, lost) for view in doubted}),
        ),
        refusals=(*_refuse_labels(judged, split, bool(classes)), *_by_view(refused)),
    )


def mean_of_outputs(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """One number a row for an audit of several outputs: (N, Q) in, (N,) out.

    The mean of the outputs, each standardised, so that none outweighs the others by its unit.
    """
    spread = targets.std(axis=0)
    standard = (targets - targets.mean(axis=0)) / np.where(spread > 0, spread, 1)
    mean: NDArray[np.float64] = standard.mean(axis=1)
    return mean


def _numbers_of(keys: Sequence[str | None]) -> NDArray[np.int64]:
    """Which rows share an input, shape (N,): equal numbers, -1 for a row without the view."""
    number: dict[str, int] = {}
    return np.array(
        [-1 if k is None else number.setdefault(k, len(number)) for k in keys], np.int64
    )


def _audit_view(
    view: str,
    inputs: NDArray[np.int64],
    targets: NDArray[Any],
    split: Split,
    known: NDArray[np.bool_] | None,
) -> ViewAudit:
    there = inputs >= 0
    counts = np.bincount(inputs[there])
    test = inputs[split.test][there[split.test]]
    return ViewAudit(
        view=view,
        rows=int(there.sum()),
        distinct=len(counts),
        repeated=int(counts[counts > 1].sum()),
        largest=int(counts.max(initial=0)),
        ceilings=regression_ceilings(targets[there], inputs[there])
        if known is None
        else classification_ceilings(targets[there], inputs[there], known[there]),
        test=len(test),
        test_in_train=int(np.isin(test, inputs[split.train]).sum()),
    )


def _find_outliers(targets: NDArray[np.float64], ids: Sequence[str]) -> Outliers:
    away = targets - np.median(targets)
    mad = np.median(np.abs(away))
    at = int(np.abs(away).argmax())
    if mad == 0:
        return Outliers(count=0, furthest=ids[at], score=math.nan)
    score = 0.6745 * away / mad
    return Outliers(
        count=int((np.abs(score) > OUTLYING).sum()), furthest=ids[at], score=float(score[at])
    )


def _doubt_labels(rows: int, outliers: Outliers | None, majority: float | None) -> Iterable[str]:
    if majority is not None and majority >= RARE:
        yield (
            f"{_share(majority)} of all rows are of one class: naming it always is right as often, "
            "so an accuracy near that says nothing."
        )
    if outliers is None:
        return
    if math.isnan(outliers.score):
        yield "Half of the labels or more are equal: ranks hang on the others alone."
    elif outliers.count > MANY * rows or abs(outliers.score) > EXTREME:
        yield (
            f"{_count(outliers.count, 'label')} of {rows:,} lie far from the others; "
            f"{outliers.furthest} is {abs(outliers.score):.0f} spreads from the median. Training "
            "minimises squares, so look at them, or try --transform."
        )


def _doubt_split(view: ViewAudit) -> str | None:
    if view.test_in_train == 0:
        return None
    return (
        f"{view.test_in_train:,} of {view.test:,} test rows "
        f"({_share(view.test_in_train / view.test)}) read an input that also stands in train, so "
        "a head can score by memory; a --split by group keeps them apart."
    )


def _doubt_ceiling(view: ViewAudit, lost: float) -> str | None:
    """What shared inputs cost; `lost` is the share of rows whose class train does not have."""
    last = view.ceilings[-1]  # Spearman or accuracy: what heads are judged by
    limits = []
    if last.bound + lost < LOW_CEILING:
        limits.append(f"no head can pass {last.bound:.2f} on these rows")
    if last.expected < LOW_CEILING:  # nan is not below anything
        limits.append(f"about {last.expected:.2f} is the most to expect on new ones")
    if not limits:
        return None
    metric = "Spearman" if last.metric == "spearman" else "accuracy"
    return (
        f"{view.repeated:,} rows share an input with others and their labels differ: by {metric}, "
        f"{', and '.join(limits)}."
    )


def _refuse_labels(
    judged: Mapping[str, NDArray[Any]], split: Split, classified: bool
) -> Iterable[str]:
    """Labels by the name of their output, or by nothing, that are equal in a part."""
    for (name, targets), (part, rows) in itertools.product(judged.items(), split.parts.items()):
        there = targets[rows] if classified else targets[rows][~np.isnan(targets[rows])]
        if is_constant(there) and not (classified and part != "train"):
            why = "nothing can be learnt" if part == "train" else "no score is defined"
            of = f" of {name}" if name else ""
            yield f"All {len(rows):,} {part} labels{of} are equal, so {why}."


def _refuse_inputs(inputs: NDArray[np.int64], split: Split) -> str | None:
    for name, rows in (
        ("", np.arange(len(inputs))),
        *((f"{k} ", v) for k, v in split.parts.items()),
    ):
        there = inputs[rows][inputs[rows] >= 0]
        if len(there) > 1 and is_constant(there):
            return (
                f"all {len(there):,} {name}rows read one and the same input, so any head gives "
                "them one answer and its score says nothing."
            )
    return None


def _by_view(said: Mapping[str, str | None]) -> list[str]:
    """Each different sentence once, behind the views it holds for."""
    views: dict[str, list[str]] = {}
    for view, sentence in said.items():
        if sentence is not None:
            views.setdefault(sentence, []).append(view)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in views.items()]


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.01 else "under 1 %"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("s" if number != 1 else "")
