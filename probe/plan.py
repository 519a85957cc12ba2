"""What a run will do: a store, a task and backbones in; shared rows and one split out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore import Collection, Store
from embedstore.errors import BadInput
from embedstore.loaders import Align, EmbeddingReader, JoinedReader, open_joined
from embedstore.records import Record
from probe.audit import Audit, audit_rows, mean_of_outputs
from probe.coverage import coverage
from probe.grid import Grid, SearchRule
from probe.head_rules import BY_TOKEN, check_head, check_positions
from probe.linear import PENALTIES, penalties
from probe.objective import Objective
from probe.split_rules import SplitRule, make_split
from probe.splits import Split
from probe.tasks import Task, read_labels
from probe.training import LINEAR, Config, Examples, HeadKind


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Everything a run depends on. All backbones share the rows and the split."""

    task: Task
    grid: Grid
    readers: dict[str, EmbeddingReader]
    """By the backbone's name in this run: its short name (of a join: all of them with a `+`
    between), or where two recipes share it the recipe's name."""
    keys: dict[str, list[str]]
    """By backbone: the key of each row's embedding."""
    targets: NDArray[Any]
    """As in `Labels.targets`: shape (N,), or (N, Q) of several outputs or positions."""
    classes: tuple[str, ...]
    split: Split
    """Over the N rows; `split.ids` names them."""
    rows: tuple[Record, ...]
    """The N records themselves, for baselines that need no embedding."""
    records: int
    """Rows of the collection."""
    dropped: dict[str, int]
    """Rows left out, by reason. A row that several backbones lack counts for each of them."""
    label_notes: tuple[str, ...] = ()
    """As `Labels.notes`."""
    head: HeadKind = "textcnn"
    search: SearchRule = "full"

    @cached_property
    def objective(self) -> Objective:
        """The task, fitted on the training rows."""
        train = self.targets[self.split.train]
        return Objective.fit(self.task, self.classes, train, by_token=self.head == BY_TOKEN)

    @property
    def configurations(self) -> list[Config]:
        """What is tried for each backbone, in the order in which ties are settled."""
        if self.head in LINEAR:
            return [*penalties(self.head)]
        return [*self.grid.configurations()]

    @cached_property
    def audit(self) -> Audit:
        """What the rows allow, seen through the views that the backbones read."""
        keys = {reader.recipe.view: self.keys[name] for name, reader in self.readers.items()}
        targets = self.targets
        if self.task.kind == "regression" and targets.ndim == 2:
            targets = mean_of_outputs(targets)
        return audit_rows(
            targets,
            keys,
            self.split,
            self.classes,
            outputs=dict(zip(self.task.labels, self.targets.T, strict=True))
            if self.task.kind == "regression" and self.targets.ndim == 2
            else {},
            notes=self.label_notes,
        )

    def examples(self, part: str) -> Examples:
        """Rows and targets of `train`, `validation` or `test`."""
        rows = self.split.parts[part]
        return Examples(rows, self.targets[rows])

    def document(self) -> dict[str, Any]:
        """What makes two runs the same run: `run.json` without versions."""
        joined = {
            name: reader.recipe.as_json()
            for name, reader in self.readers.items()
            if isinstance(reader, JoinedReader)
        }
        return {
            "task": self.task.as_json(),
            "unit": self.task.unit,
            "classes": list(self.classes),
            "head": self.head,
            "search": self.search,
            "grid": self.grid.as_json(),
            "penalties": [*PENALTIES[self.head]] if self.head in LINEAR else None,
            "backbones": {name: reader.name for name, reader in self.readers.items()},
            "rows": {
                "collection": self.records,
                "used": len(self.split.ids),
                "dropped": self.dropped,
                "digest": self._rows_digest(),
            },
            "split": {
                "rule": self.split.rule,
                "seed": self.split.seed,
                "digest": self.split.digest,
                "n": {part: len(rows) for part, rows in self.split.parts.items()},
            },
            **({"joined": joined} if joined else {}),
        }

    def _rows_digest(self) -> str:
        """Of every row's id, target and keys: a label corrected under the same id shows."""
        columns = [self.split.ids, self.targets.tolist(), *self.keys.values()]
        rows = sorted(zip(*columns, strict=True))
        return hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()


def plan_run(
    store: Store,
    task: Task,
    backbones: Sequence[str],
    grid: Grid,
    head: HeadKind = "textcnn",
    search: SearchRule = "full",
    split_rule: SplitRule = SplitRule(),
    align: Align | None = None,
) -> Plan:
    """Settle rows and split before anything is trained.

    Parameters
    ----------
    backbones : short names or recipe names, each once; `a+b` joins a and b
    split_rule : followed with the grid's seed
    align : axis of all joins, as in `open_joined`

    Raises
    ------
    BadInput
        The label columns or the head cannot serve the task, a recipe is named twice, nothing is
        joined that could be aligned, too few rows have an embedding under every backbone, or they
        cannot be split by the rule.
    MissingCollection, MissingRecipe
        The store does not have what was named.
    """
    check_head(head, task, search)
    collection = store.collection(task.collection)
    if align is not None and not any("+" in name for name in backbones):
        raise BadInput("--align has nothing to align.", "Join backbones with a +, like a+b.")
    readers = _name_readers([_open(store, name, collection, align) for name in backbones])
    labels = read_labels(collection.table, task)
    dropped = dict(labels.dropped)
    covered = {name: coverage(reader, collection) for name, reader in readers.items()}
    shared = np.ones(len(labels.rows), np.bool_)
    for name, one in covered.items():
        viewless = sum(one.keys[row] is None for row in labels.rows.tolist())
        absent = int((~one.stored[labels.rows]).sum()) - viewless
        dropped[f"no {readers[name].recipe.view} view for {name}"] = viewless
        dropped[f"not embedded with {name}"] = absent
        shared &= one.stored[labels.rows]
    rows = labels.rows[shared]
    try:
        classes = labels.targets[shared] if labels.classes else None
        split = make_split(split_rule, collection, rows, grid.seed, classes)
    except BadInput as error:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        if not reasons:
            raise
        raise BadInput(f"{error.problem} Left out: {reasons}.", error.fix) from error
    records = collection.records()
    if labels.positions is not None:
        shown = [records[row] for row in rows.tolist()]
        check_positions(head, labels.positions[shared], readers, shown)
    keys = {name: one.keys_of(rows) for name, one in covered.items()}
    for name, reader in readers.items():
        if isinstance(reader, JoinedReader):
            seen = dict.fromkeys(keys[name][row] for row in split.train.tolist())
            readers[name] = reader.scaled(list(seen))
    return Plan(
        task=task,
        grid=grid,
        readers=readers,
        keys=keys,
        targets=labels.targets[shared],
        classes=labels.classes,
        split=split,
        rows=tuple(records[row] for row in rows.tolist()),
        records=len(collection),
        dropped=dropped,
        label_notes=labels.notes,
        head=head,
        search=search,
    )


def _open(store: Store, name: str, collection: Collection, align: Align | None) -> EmbeddingReader:
    parts = name.split("+")
    if len(parts) == 1:
        return store.recipe(name)
    return open_joined(store, parts, collection, align)


def _name_readers(readers: Sequence[EmbeddingReader]) -> dict[str, EmbeddingReader]:
    recipes = [reader.name for reader in readers]
    if len(set(recipes)) < len(recipes):
        raise BadInput(
            f"One recipe is named twice: {', '.join(recipes)}.", "Name each backbone once."
        )
    short = [reader.recipe.backbone for reader in readers]
    return {
        reader.recipe.backbone if short.count(reader.recipe.backbone) == 1 else reader.name: reader
        for reader in readers
    }
