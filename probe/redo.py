"""The command line that redoes a run: its arguments in, shell text out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from embedstore.loaders import Align, Loading
from probe.grid import Grid, SearchRule
from probe.split_rules import SplitRule
from probe.tasks import Task
from probe.training import HeadKind


def grid_command(
    store: Path | str,
    task: Task,
    backbones: Sequence[str],
    grid: Grid,
    output: Path,
    *,
    head: HeadKind = "textcnn",
    search: SearchRule = "full",
    split_rule: SplitRule = SplitRule(),
    force: bool = False,
    align: Align | None = None,
    loading: Loading = Loading(),
) -> str:
    """`probe grid ...` with every option that changes a number spelled out, defaults too."""
    options: dict[str, object] = {
        "--collection": task.collection,
        "--label": task.label,
        "--kind": task.kind,
        "--transform": task.transform,
        "--min-label": task.min_label,
        "--max-nt": task.max_letters,
        "--decimal": None if task.decimal == "." else task.decimal,
        "--backbone": ",".join(backbones),
        "--head": head,
        "--batch-size": ",".join(map(str, grid.batch_sizes)),
        "--learning-rate": ",".join(repr(rate) for rate in grid.learning_rates),
        "--epochs": grid.epochs,
        "--patience": grid.patience,
        "--search": search,
        "--seed": grid.seed,
        "--seeds": grid.seeds,
        "--metric": task.metric,
        "--split": split_rule.text,
        "--folds": split_rule.folds,
        "--fold": None if split_rule.folds is None else split_rule.fold,
        "--align": align,
        "--memory": loading.memory,
        "--device": None if loading.device == "cpu" else loading.device,
    }
    words = ["probe", "grid", str(store)]
    for name, value in options.items():
        if value is not None:
            words += [name, str(value)]
    words += ["--balance"] * task.balance + ["--force"] * force
    return shlex.join([*words, "-o", str(output)])
