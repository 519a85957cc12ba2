"""Audits of a collection for people and scripts: a table and a task in, JSON and text out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore import Collection
from embedstore.dogma import VIEWS
from probe.audit import audit_rows, mean_of_outputs
from probe.groups import connect
from probe.relatives import Relatives, count_relatives, doubt_relatives
from probe.split_rules import SplitRule, cluster_texts, comparable_texts, make_split
from probe.splits import PARTS, Split
from probe.tasks import Task, read_labels

FORMAT = 1
SHOWN = 20
"""Classes in the table of classes and parts."""
COMPARED_BY = ("kmer", "homolog")
"""Clusterings by which relatives of test rows are looked for, the looser bond last."""
_CEILINGS = {"r2": "R2", "spearman": "Spearman", "accuracy": "accuracy"}


def audit_collection(
    collection: Collection, task: Task, split_rule: SplitRule = SplitRule(), seed: int = 0
) -> dict[str, Any]:
    """The audit of all rows that a task can use, as a document; reads no embedding.

    A run may use fewer rows, those that every backbone has stored; its own audit is in
    `results.json`.

    Raises
    ------
    BadInput
        The labels cannot serve the task, or the rows cannot be split by the rule.
    """
    flat = collection
    if task.kind != "per-position":
        flat = mean_of_positions(collection, task.label)
    labels = read_labels(flat.table, task)
    targets, unit, outputs = labels.targets, task.unit, {}
    if task.kind == "per-position" or flat is not collection:
        unit = f"{unit}, mean over positions"
    elif targets.ndim == 2:
        outputs = dict(zip(task.labels, targets.T, strict=True))
        targets, unit = mean_of_outputs(targets), f"{unit}, mean of standardised outputs"
    classes = labels.targets if labels.classes else None
    split = make_split(split_rule, collection, labels.rows, seed, classes)
    rows = labels.rows.tolist()
    keys = {view: [each[row] for row in rows] for view, each in _keys(collection).items()}
    relatives = relatives_of_tests(collection, labels.rows, split)
    audit = audit_rows(
        targets, keys, split, labels.classes, outputs=outputs, notes=labels.notes
    ).as_json()
    doubts = [each for each in map(doubt_relatives, relatives.values()) if each is not None]
    return {
        "kind": "audit",
        "format": FORMAT,
        "task": task.as_json(),
        "unit": unit,
        "collection": len(collection),
        "dropped": labels.dropped,
        "split": {"rule": split.rule, "seed": split.seed, "digest": split.digest},
        **audit,
        "relatives": {
            kind: [each.as_json() for each in found] for kind, found in relatives.items()
        },
        "warnings": [*audit["warnings"], *doubts],
    }


def relatives_of_tests(
    collection: Collection, rows: NDArray[np.int64], split: Split
) -> dict[str, list[Relatives]]:
    """Test rows with copies and cluster mates in train, by kind of sequence and by clustering.

    Proteins are compared with proteins; rows that have none, as nucleotides, with each other.

    Parameters
    ----------
    rows : positions in the collection, shape (N,)
    split : of these rows

    Returns
    -------
    By `protein` and `dna`, where there are such rows: one for each of `COMPARED_BY`
    """
    found: dict[str, list[Relatives]] = {}
    for kind, texts in comparable_texts(collection, rows).items():
        places = [*texts]
        copies = np.full(len(rows), -1, np.int64)
        copies[places] = connect([[*texts.values()]])
        for name in COMPARED_BY:
            groups = np.full(len(rows), -1, np.int64)
            groups[places], said = cluster_texts(name, kind, [*texts.values()])
            found.setdefault(kind, []).append(count_relatives(groups, copies, split, said))
    return found


def mean_of_positions(collection: Collection, label: str) -> Collection:
    """The collection with one number a row where the label is a list of numbers: its mean.

    Absent and undefined numbers are left out; a list without any gives no label. A collection
    without such a label comes back as it is.
    """
    import pyarrow as pa

    table = collection.table
    if label not in collection.labels or not pa.types.is_nested(table.column(label).type):
        return collection
    means = []
    for values in table.column(label).to_pylist():
        there = [value for value in values or () if value is not None and value == value]
        means.append(float(np.mean(there)) if there else None)
    place = table.column_names.index(label)
    return replace(collection, table=table.set_column(place, label, pa.array(means, pa.float64())))


def audit_text(document: dict[str, Any]) -> str:
    """The document of `audit_collection` as people read it."""
    task, parts, smallest = document["task"], document["parts"], document["smallest_detectable"]
    left_out = [f"{count:,} {reason}" for reason, count in document["dropped"].items() if count]
    lines = [
        f"{task['collection']}: {document['unit']} ({task['kind']})",
        f"{document['rows']:,} of {document['collection']:,} records used"
        + (f"; left out: {', '.join(left_out)}" if left_out else ""),
        f"split {document['split']['rule']}, seed {document['split']['seed']}: "
        + ", ".join(f"{part} {count:,}" for part, count in parts.items()),
    ]
    if document["majority"] is not None:
        lines.append(
            f"the most frequent class holds {100 * document['majority']:.1f} % of the rows"
        )
    if smallest is not None:
        numbers = task["kind"] != "classification"
        chance = "0" if numbers else "that of the most frequent class"
        what = "Spearman" if numbers else "gain in accuracy"
        lines.append(
            f"{parts['test']:,} test rows tell a {what} of {smallest:.3f} or more from {chance} "
            "(5 %, power 80 %)"
        )
    outliers = document["outliers"]
    if outliers is not None and outliers["score"] is not None:
        lines.append(
            f"{outliers['count']:,} label outliers (modified z above 3.5); furthest: "
            f"{outliers['furthest']} at {outliers['score']:.1f}"
        )
    lines += ["", *_table(document["views"]), ""]
    lines += [*_relatives_table(document["relatives"]), ""]
    if document["classes"] is not None:
        lines += [*_class_table(document["classes"]), ""]
    lines += [f"warning: {sentence}" for sentence in document["warnings"]]
    lines += [f"refused: {sentence}" for sentence in document["refusals"]]
    if lines[-1] == "":
        lines.append("nothing to warn of")
    return "\n".join(lines) + "\n"


def _table(views: list[dict[str, Any]]) -> list[str]:
    """One line a view, columns aligned to the right but the first."""
    metrics = [_CEILINGS[each["metric"]] for each in views[0]["ceilings"]]
    rows = [
        ["view", "rows", "distinct", "sharing", "most alike"]
        + [f"{word} {metric}" for metric in metrics for word in ("best", "expected")]
        + ["test rows in train"]
    ]
    for view in views:
        if view["rows"] == 0:
            continue
        leak = f"{view['test_in_train']:,} of {view['test']:,}"
        counts = [f"{view[name]:,}" for name in ("rows", "distinct", "repeated", "largest")]
        scores = [_score(each[w]) for each in view["ceilings"] for w in ("bound", "expected")]
        rows.append([view["view"], *counts, *scores, leak])
    keep = [at for at in range(len(rows[0])) if at == 0 or any(row[at] != "-" for row in rows[1:])]
    return _aligned([[row[at] for at in keep] for row in rows])


def _relatives_table(relatives: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line a kind of sequence and clustering."""
    rows = [["relatives by", "rows", "groups", "largest", "test", "copies in train", "relatives"]]
    for each in (each for found in relatives.values() for each in found):
        counts = [each[name] for name in ("rows", "groups", "largest", "test", "copies")]
        share = f" ({100 * each['relatives'] / each['test']:.0f} %)" if each["test"] else ""
        last = f"{each['relatives']:,}{share}"
        rows.append([each["rule"], *(f"{count:,}" for count in counts), last])
    return _aligned(rows)


def _class_table(classes: dict[str, dict[str, int]]) -> list[str]:
    """Rows of each class in each part, the `SHOWN` smallest classes alone where there are more."""
    order = sorted(classes, key=lambda name: (sum(classes[name].values()), name))
    shown = {*order[:SHOWN]}
    rows = [
        ["class", *PARTS],
        *(
            [name, *(f"{counts[part]:,}" for part in PARTS)]
            for name, counts in classes.items()
            if name in shown
        ),
    ]
    lines = _aligned(rows)
    if len(order) > SHOWN:
        lines.append(f"and {len(order) - SHOWN:,} larger classes")
    return lines


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns aligned to the right but the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return lines


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _keys(collection: Collection) -> dict[str, list[str | None]]:
    return {view: collection.keys(view) for view in VIEWS}
