"""What a fine-tuning run will do: a store's records, a task and a backbone in; rows and split out.

No embedding is needed: the backbone reads the views themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from embedstore import Collection, RecipeReader, Store
from embedstore.backbones.load import PreparedBackbone
from embedstore.build.plan import Item
from embedstore.dogma import Unreadable
from embedstore.errors import BadInput, TooLong
from embedstore.store import Recipe, key_of
from probe.finetune.adapters import targets_of
from probe.finetune.method import FinetuneGrid
from probe.plan import Plan
from probe.predictions import read_test_rows
from probe.run_documents import SPLIT, read_both, read_run_document, read_split
from probe.split_rules import SplitRule, make_split
from probe.splits import Split, split_of
from probe.tasks import Labels, Task, read_labels
from probe.training import HeadKind

if TYPE_CHECKING:
    from probe.finetune.live import LiveViews


HEADS = ("textcnn", "lstm")
"""Kinds of heads that can be trained together with a backbone."""
KINDS = ("regression", "classification")
"""Kinds of tasks that they can be trained for."""


@dataclass(frozen=True)
class Pretrained:
    """Stands in a plan where a probing run has a reader: what the backbone starts from."""

    recipe: Recipe

    @property
    def name(self) -> str:
        """Of the recipe."""
        return self.recipe.name


@dataclass(frozen=True, kw_only=True, eq=False)
class FinetunePlan(Plan):
    """Everything a fine-tuning run depends on; one backbone, by one method."""

    grid: FinetuneGrid
    prepared: PreparedBackbone
    items: dict[str, Item]
    """By key: what the backbone reads."""
    like: dict[str, Any] | None = None
    """Which run it is to be compared with, by the digests of its split and its rows."""
    batch_tokens: int = 8_192
    """Tokens in one pass; changes no number but for rounding."""
    checkpointing: bool = False
    """Compute inner values again instead of keeping them."""

    @property
    def name(self) -> str:
        """Of the backbone in this run, e.g. `esm2-8m-lora`."""
        return next(iter(self.readers))

    @property
    def views(self) -> LiveViews:
        """What each row reads."""
        from probe.finetune.live import LiveViews

        place = {key: at for at, key in enumerate(self.items)}
        rows = np.array([place[key] for key in self.keys[self.name]], np.int64)
        return LiveViews(tuple(self.items.values()), rows)

    def document(self) -> dict[str, Any]:
        """What makes two runs the same run: `run.json` without versions."""
        recipe = self.prepared.recipe
        family = self.prepared.config.spec.family
        made = super().document() | {
            "method": self.grid.method,
            "base": {"backbone": recipe.backbone, "weights": recipe.weights},
            "recipe": recipe.as_json(),
            "like": self.like,
        }
        if self.grid.method == "lora":
            made["targets"] = list(targets_of(family))
        return made


def plan_finetuning(
    store: Store,
    task: Task,
    prepared: PreparedBackbone,
    grid: FinetuneGrid,
    head: HeadKind = "textcnn",
    split_rule: SplitRule = SplitRule(),
    *,
    like: Path | None = None,
    batch_tokens: int = 8_192,
    checkpointing: bool = False,
) -> FinetunePlan:
    """Settle rows and split before anything is trained.

    Parameters
    ----------
    split_rule : followed with the grid's seed; of no use beside `like`
    like : a run whose rows and split are taken

    Raises
    ------
    BadInput
        The label column cannot serve the task, too few rows can be read, they cannot be split by
        the rule, the backbone has no weights, or the rows of `like` are not all here and the same.
    TooLong
        A view is longer than the backbone reads and the policy is `error`.
    MissingCollection
    """
    if prepared.checkpoint is None:
        raise BadInput(
            f"{prepared.config.spec.name} has no weights to train.", "Choose another --backbone."
        )
    if head not in HEADS or task.kind not in KINDS:
        raise BadInput(
            f"A {head} head for a {task.kind} cannot be trained with a backbone.",
            f"Heads: {', '.join(HEADS)}; tasks: {', '.join(KINDS)}.",
        )
    if task.balance or len(task.labels) > 1:
        raise BadInput(
            "Balanced classes and several outputs cannot be trained with a backbone.",
            "Leave out --balance, or name one label.",
        )
    if prepared.recipe.compute_dtype == "float16":
        raise BadInput("Gradients do not fit float16.", "Say --compute-dtype bfloat16 or float32.")
    if prepared.reading.policy == "window":
        raise BadInput(
            "Fine-tuning reads each sequence at once, so --long window cannot be.",
            "Say --long truncate or skip, or raise --max-tokens.",
        )
    collection = store.collection(task.collection)
    labels = read_labels(collection.table, task)
    name = f"{prepared.config.spec.name}-{grid.method}"
    wanted = labels.rows if like is None else _rows_like(like, collection, labels)
    keys, items, dropped = _read_views(collection, wanted, prepared, name)
    rows = wanted[np.array([key is not None for key in keys], np.bool_)]
    targets = labels.targets[np.isin(labels.rows, rows)]
    if like is None:
        split = make_split(
            split_rule, collection, rows, grid.seed, targets if labels.classes else None
        )
    else:
        ids = collection.ids
        split = _split_like(like, [ids[row] for row in rows.tolist()])
        _expect_labels(like, split, targets, labels.classes)
    records = collection.records()
    return FinetunePlan(
        task=task,
        grid=grid,
        # only its recipe is ever asked for: nothing is read from the store
        readers={name: cast(RecipeReader, Pretrained(prepared.recipe))},
        keys={name: [key for key in keys if key is not None]},
        targets=targets,
        classes=labels.classes,
        split=split,
        rows=tuple(records[row] for row in rows.tolist()),
        records=len(collection),
        dropped=labels.dropped | dropped,
        label_notes=labels.notes,
        head=head,
        prepared=prepared,
        items=items,
        like=None if like is None else _digests(like),
        batch_tokens=batch_tokens,
        checkpointing=checkpointing,
    )


@dataclass(frozen=True)
class Like:
    """What a fine-tuning takes over from the run it is compared with."""

    task: Task
    seed: int
    head: HeadKind
    chosen: dict[str, Any]
    """Batch size and learning rate that the run chose for this backbone; empty: not in the run."""


def read_like(folder: Path, backbone: str) -> Like:
    """Task, seed, head and the chosen configuration of a finished run.

    Parameters
    ----------
    backbone : short name, as in the table of backbones

    Raises
    ------
    BadInput
        The folder holds no run, or a damaged one.
    """
    run, results = read_both(folder)
    if run.head not in HEADS:
        raise BadInput(
            f"{str(folder)!r} has a {run.head} head, which cannot be trained with a backbone.",
            f"Name a run with a head of {' or '.join(HEADS)}.",
        )
    chosen: dict[str, Any] = {}
    for name, recipe in run.backbones.items():
        if recipe.rpartition("-")[0] == backbone and run.method is None:
            if name not in results.backbones:
                raise BadInput(
                    f"{str(folder)!r} has no result of {name}.", "Name a run in which it trained."
                )
            one = results.backbones[name].chosen
            found = {"batch_size": one.batch_size, "learning_rate": one.learning_rate}
            chosen = {part: value for part, value in found.items() if value is not None}
    return Like(run.task.task(), run.grid.seed, run.head, chosen)


def _rows_like(like: Path, collection: Collection, labels: Labels) -> NDArray[np.int64]:
    """The rows of another run, as positions in the collection."""
    members, ids = read_split(like).ids, collection.ids
    mine = np.array([ids[row] in members for row in labels.rows.tolist()], np.bool_)
    rows = labels.rows[mine]
    if len(rows) < len(members):
        raise BadInput(
            f"{len(members) - len(rows)} of the {len(members)} rows of {str(like)!r} have no "
            f"usable label in collection {collection.name!r}.",
            "Name the collection that the run was made of.",
        )
    return rows


def _split_like(like: Path, ids: list[str]) -> Split:
    """The very split of another run.

    Raises
    ------
    BadInput
        Not all of its rows are here.
    """
    saved = read_split(like)
    split = split_of(saved, like / SPLIT, ids)
    if split.digest != saved.digest:
        count = len(saved.ids)
        raise BadInput(
            f"{count - len(ids)} of the {count} rows of {str(like)!r} cannot be read by this "
            "backbone, so the two would not be compared on the same rows.",
            "Probe this backbone too in that run, or fine-tune without --like.",
        )
    return split


def _expect_labels(
    like: Path, split: Split, targets: NDArray[Any], classes: tuple[str, ...]
) -> None:
    """Check that the labels of the test rows are those that the other run was judged by."""
    shown: dict[str, Any] = {}
    for path in sorted((like / "predictions").glob("*.csv"))[:1]:
        found = read_test_rows(path, None if classes else (), within=like)
        shown = dict(zip(found.ids, found.true.tolist(), strict=True)) if found is not None else {}
    for row in split.test.tolist():
        id = split.ids[row]
        if id not in shown:
            continue
        mine = classes[targets[row]] if classes else f"{float(targets[row]):g}"
        theirs = shown[id] if classes else f"{shown[id]:g}"
        if shown[id] != (mine if classes else float(targets[row])):
            raise BadInput(
                f"The label of {id} is {mine}, and {theirs} in {str(like)!r}.",
                "Run the probe again on the collection as it is.",
            )


def _digests(like: Path) -> dict[str, Any]:
    run = read_run_document(like)
    return {"split": run.split.digest, "rows": run.rows.digest}


def _read_views(
    collection: Collection, rows: NDArray[np.int64], prepared: PreparedBackbone, name: str
) -> tuple[list[str | None], dict[str, Item], dict[str, int]]:
    """Key of each row's view, or None; what is read of each; and rows left out by reason."""
    view, reading = prepared.recipe.view, prepared.reading
    tokenizer = prepared.tokenizer()
    without, long = f"no {view} view for {name}", f"too long for {name}"
    dropped = {without: 0, long: 0}
    keys: list[str | None] = []
    items: dict[str, Item] = {}
    too_long: list[tuple[int, str]] = []
    records = collection.records()
    for row in rows.tolist():
        record = records[row]
        keys.append(None)
        try:
            text = record.view(view).text
        except Unreadable:
            dropped[without] += 1
            continue
        count = tokenizer.count(text)
        if count == 0:
            dropped[without] += 1
        elif not reading.fits(count) and reading.policy != "truncate":
            dropped[long] += 1
            too_long.append((count, record.id))
        else:
            key = keys[-1] = key_of(text)
            stored, cost = prepared.stored_count(count), prepared.forward_cost(count)
            items.setdefault(key, Item(key, text, stored, cost))
    if too_long and reading.policy == "error":
        longest, id = max(too_long)
        raise TooLong(
            f"{len(too_long)} sequences are longer than the {reading.limit} tokens that "
            f"{prepared.config.spec.name} reads; the longest is {id!r} with {longest}.",
            "Say --long truncate or skip, or raise --max-tokens.",
        )
    return keys, items, dropped
