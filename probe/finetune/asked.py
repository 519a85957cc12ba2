"""What the command line asked for: options in, a plan and its run out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from embedstore import Store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.errors import BadInput
from probe.finetune.method import FinetuneGrid, Method, parse_alphas
from probe.finetune.plan import Like, plan_finetuning, read_like
from probe.number_cells import DecimalMark
from probe.split_rules import SplitRule
from probe.tasks import Kind, Task, Transform, infer_kind
from probe.training import HeadKind


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options of `probe finetune`; None where nothing was said."""

    store: str
    """Folder, or URL of a bucket."""
    backbone: str
    method: Method
    collection: str | None
    label: str | None
    like: Path | None
    weights: Path | None
    ranks: tuple[int, ...]
    alphas: str
    batch_sizes: tuple[int, ...] | None
    head_rates: tuple[float, ...] | None
    backbone_rate: float
    epochs: int
    patience: int
    seeds: int
    seed: int | None
    kind: Kind | None
    transform: Transform | None
    min_label: float | None
    max_letters: int | None
    decimal: DecimalMark | None
    head: HeadKind | None
    split: str
    folds: int | None
    fold: int
    long: str
    max_tokens: int | None
    device: str
    compute_dtype: str
    batch_tokens: int
    checkpointing: bool
    offline: bool

    def command(self, output: Path, *, force: bool) -> str:
        """Shell text that asks for the same again."""
        words = ["probe", "finetune", self.store]
        for field in fields(self):
            option = _OPTIONS.get(field.name, f"--{field.name.replace('_', '-')}")
            value = getattr(self, field.name)
            if value is True:
                words.append(option)
            elif field.name != "store" and value is not None and value is not False:
                several = isinstance(value, tuple)
                words += [option, ",".join(map(repr, value)) if several else str(value)]
        return shlex.join([*words, *(["--force"] if force else []), "-o", str(output)])


_OPTIONS = {
    "ranks": "--rank",
    "alphas": "--alpha",
    "batch_sizes": "--batch-size",
    "head_rates": "--head-lr",
    "backbone_rate": "--backbone-lr",
    "max_letters": "--max-nt",
}
"""Options whose field has another name."""


def carry_out(asked: Asked, output: Path, *, force: bool) -> dict[str, Any] | None:
    """Plan and run; `results.json` comes back, None in a process that helps the first one.

    Raises
    ------
    BadInput
        As `plan_finetuning` and `run_finetuning`, or options contradict each other or --like.
    """
    from probe.finetune.runs import run_finetuning
    from probe.finetune.workers import find_workers

    alphas = parse_alphas(asked.alphas)
    store = open_store(asked.store)
    config = BackboneConfig(
        backbone=asked.backbone,
        weights=asked.weights,
        long=asked.long,
        max_tokens=asked.max_tokens,
        compute_dtype=asked.compute_dtype,
        offline=asked.offline,
    )
    like = None if asked.like is None else read_like(asked.like, config.spec.name)
    chosen = {} if like is None else like.chosen
    grid = FinetuneGrid(
        method=asked.method,
        ranks=asked.ranks,
        alphas=alphas,
        batch_sizes=asked.batch_sizes or (chosen.get("batch_size", 32),),
        learning_rates=asked.head_rates or (chosen.get("learning_rate", 3e-4),),
        backbone_learning_rate=asked.backbone_rate,
        epochs=asked.epochs,
        patience=asked.patience,
        seeds=asked.seeds,
        seed=(asked.seed or 0) if like is None else like.seed,
    )
    task = _task(asked, store) if like is None else _task_like(asked, like)
    workers = find_workers()
    device = workers.device or asked.device
    plan = plan_finetuning(
        store,
        task,
        prepare(BackboneConfig(**{**vars(config), "device": device})),
        grid,
        like.head if like is not None else asked.head or "textcnn",
        SplitRule(text=asked.split, folds=asked.folds, fold=asked.fold),
        like=asked.like,
        batch_tokens=asked.batch_tokens,
        checkpointing=asked.checkpointing,
    )
    command = asked.command(output, force=force)
    return run_finetuning(plan, output, force=force, command=command, workers=workers)


def _task(asked: Asked, store: Store) -> Task:
    if asked.collection is None or asked.label is None:
        raise BadInput("There is no task.", "Give --collection and --label, or a run with --like.")
    table = store.collection(asked.collection).table
    decimal = asked.decimal or "."
    return Task(
        collection=asked.collection,
        label=asked.label,
        kind=asked.kind or infer_kind(table, asked.label, decimal),
        transform=asked.transform,
        min_label=asked.min_label,
        max_letters=asked.max_letters,
        decimal=decimal,
    )


def _task_like(asked: Asked, like: Like) -> Task:
    """The other run's task; an option that says otherwise is refused."""
    said = {
        "--collection": (asked.collection, like.task.collection),
        "--label": (asked.label, like.task.label),
        "--kind": (asked.kind, like.task.kind),
        "--transform": (asked.transform, like.task.transform),
        "--min-label": (asked.min_label, like.task.min_label),
        "--max-nt": (asked.max_letters, like.task.max_letters),
        "--decimal": (asked.decimal, like.task.decimal),
        "--seed": (asked.seed, like.seed),
        "--head": (asked.head, like.head),
        "--split": (None if asked.split == "random" else asked.split, None),
        "--folds": (asked.folds, None),
    }
    for option, (mine, theirs) in said.items():
        if mine is not None and mine != theirs:
            raise BadInput(
                f"{option} {mine} is not what the run of --like has.",
                f"Leave {option} out, or leave --like out.",
            )
    return like.task
