"""The commands that train: a grid of heads, and a backbone with its head."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli import INTERRUPTED, errors_in_one_line
from embedstore.loaders.joined import Align
from probe.cli.app import (
    CollectionName,
    Decimal,
    Fold,
    Folds,
    LikesDecimal,
    SplitText,
    StorePath,
    app,
    numbers_of,
    showing_progress,
)
from probe.finetune.method import Method
from probe.grid import SearchRule
from probe.metrics import Metric
from probe.tasks import Kind, Task, Transform, infer_kind
from probe.training import HeadKind


@app.command()
def grid(
    store: StorePath,
    collection: CollectionName,
    label: Annotated[str, typer.Option(help="Label column to predict; several with commas.")],
    backbone: Annotated[
        str, typer.Option(help="Short name or recipe; several with commas, joined ones with +.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run, new.")],
    seed: Annotated[int, typer.Option(min=0, help="Of split, weights and order of rows.")] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train each configuration with so many seeds.")
    ] = 1,
    kind: Annotated[
        Kind | None, typer.Option(help="Default: as the column tells, where it can be one only.")
    ] = None,
    transform: Annotated[
        Transform | None, typer.Option(help="Regress this function of the label.")
    ] = None,
    min_label: Annotated[float | None, typer.Option(help="Leave smaller labels out.")] = None,
    max_nt: Annotated[
        int | None, typer.Option(min=1, help="Leave longer sequences out; letters of the record.")
    ] = None,
    decimal: Decimal = ".",
    head: Annotated[HeadKind, typer.Option(help="Kind of head.")] = "textcnn",
    metric: Annotated[
        Metric | None, typer.Option(help="Default: spearman, of classes accuracy.")
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Rows weigh as much as their class is rare.")
    ] = False,
    batch_size: Annotated[str, typer.Option(help="Values to try.")] = "16,32,64,128",
    learning_rate: Annotated[str, typer.Option(help="Values to try.")] = "1e-4,3e-4,5e-4,7e-4,9e-4",
    epochs: Annotated[int, typer.Option(min=1, help="At most, each configuration.")] = 50,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without improvement before one stops.")
    ] = 10,
    search: Annotated[
        SearchRule, typer.Option(help="Train all to the end, or only what is ahead.")
    ] = "full",
    split: SplitText = "random",
    folds: Folds = None,
    fold: Fold = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Run what the audit says cannot work.")
    ] = False,
    align: Annotated[
        Align | None,
        typer.Option(help="Axis of joined backbones; default: codon where sequences are coding."),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(help="GB for features, more is streamed; default: half of what is free."),
    ] = None,
    device: Annotated[str, typer.Option(help="Train on: auto, cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Train the paper's heads on each backbone, choose on validation, read the test set once.

    Exits 1 where training diverged on a backbone; the others are kept in the run.

    Example: probe grid genes.store --collection genes --label label --backbone one-hot-mrna -o run
    """
    batch_sizes = numbers_of("--batch-size", batch_size, int)
    learning_rates = numbers_of("--learning-rate", learning_rate, float)
    from embedstore import open_store
    from embedstore.loaders import Loading
    from probe.divergence import error_of_run
    from probe.documents import read_text
    from probe.grid import Grid
    from probe.plan import plan_run
    from probe.redo import grid_command
    from probe.runs import run_grid
    from probe.split_rules import SplitRule

    with errors_in_one_line(), showing_progress():
        loading = Loading(memory=memory, device=device)
        paper = Grid(
            batch_sizes=batch_sizes,
            learning_rates=learning_rates,
            epochs=epochs,
            patience=patience,
            seed=seed,
            seeds=seeds,
        )
        opened = open_store(store)
        task = Task(
            collection=collection,
            label=label,
            kind=kind or infer_kind(opened.collection(collection).table, label, decimal),
            transform=transform,
            min_label=min_label,
            max_letters=max_nt,
            scored_by=metric,
            balance=balance,
            decimal=decimal,
        )
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        rule = SplitRule(text=split, folds=folds, fold=fold)
        names = backbone.split(",")
        plan = plan_run(
            opened,
            task,
            names,
            paper,
            head=head,
            search=search,
            split_rule=rule,
            align=align,
        )
        command = grid_command(
            store,
            task,
            names,
            paper,
            output,
            head=head,
            search=search,
            split_rule=rule,
            force=force,
            align=align,
            loading=loading,
        )
        try:
            results = run_grid(plan, output, force=force, command=command, loading=loading)
        except KeyboardInterrupt:
            print("Interrupted. Run the same command to go on.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            print(json.dumps(results))
        else:
            print(read_text(output / "results.md", output), end="")
        lost = error_of_run(results, output)
        if lost is not None:
            raise lost


@app.command()
def finetune(
    store: StorePath,
    backbone: Annotated[str, typer.Option(help="Short name or hub id.")],
    method: Annotated[Method, typer.Option(help="Low-rank adapters, or every weight.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run, new.")],
    collection: Annotated[
        str | None, typer.Option(help="Name of the collection; with --like its own.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Label column to predict; with --like its own.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="A run to compare with: takes its task, rows, split, seed and head, and of its "
            "choice for this backbone the batch size and head learning rate."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of the pretrained weights; default: the hub.")
    ] = None,
    rank: Annotated[str, typer.Option(help="Of LoRA; values to try.")] = "16,32,64,128",
    alpha: Annotated[
        str, typer.Option(help="Of LoRA, as multiples of the rank; values to try.")
    ] = "0.25x,0.5x,1x,2x",
    batch_size: Annotated[
        str | None, typer.Option(help="Sequences a step; values to try. Default: --like's, or 32.")
    ] = None,
    head_lr: Annotated[
        str | None,
        typer.Option(help="Learning rates of the head to try. Default: --like's, or 3e-4."),
    ] = None,
    backbone_lr: Annotated[float, typer.Option(help="Learning rate of the backbone.")] = 5e-5,
    epochs: Annotated[int, typer.Option(min=1, help="At most, each configuration.")] = 20,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without improvement before one stops.")
    ] = 5,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train each configuration with so many seeds.")
    ] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of split, weights and order of rows; default 0.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="Default: as the column tells, where it can be one only.")
    ] = None,
    transform: Annotated[
        Transform | None, typer.Option(help="Regress this function of the label.")
    ] = None,
    min_label: Annotated[float | None, typer.Option(help="Leave smaller labels out.")] = None,
    max_nt: Annotated[
        int | None, typer.Option(min=1, help="Leave longer sequences out; letters of the record.")
    ] = None,
    decimal: LikesDecimal = None,
    head: Annotated[HeadKind | None, typer.Option(help="Kind of head; default textcnn.")] = None,
    split: SplitText = "random",
    folds: Folds = None,
    fold: Fold = 0,
    long: Annotated[
        str, typer.Option(help="What to do with longer input: error, truncate or skip.")
    ] = "error",
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest input, special tokens included.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    compute_dtype: Annotated[
        str, typer.Option(help="auto, float32 or bfloat16; weights are kept in float32.")
    ] = "auto",
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens in one pass; gradients add up to a batch's.")
    ] = 8_192,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory for about a third more time.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Run what the audit says cannot work.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Fine-tune a backbone with a head, by LoRA or in full, on the rows of a collection.

    A killed run goes on from its last epoch with the same command.

    Example: probe finetune genes.store --like run --backbone codon-mini --method full -o tuned
    """
    from probe.documents import read_text
    from probe.finetune.asked import Asked, carry_out

    batch_sizes = None if batch_size is None else numbers_of("--batch-size", batch_size, int)
    head_rates = None if head_lr is None else numbers_of("--head-lr", head_lr, float)
    with errors_in_one_line(), showing_progress():
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        asked = Asked(
            store=store,
            backbone=backbone,
            method=method,
            collection=collection,
            label=label,
            like=like,
            weights=weights,
            ranks=numbers_of("--rank", rank, int),
            alphas=alpha,
            batch_sizes=batch_sizes,
            head_rates=head_rates,
            backbone_rate=backbone_lr,
            epochs=epochs,
            patience=patience,
            seeds=seeds,
            seed=seed,
            kind=kind,
            transform=transform,
            min_label=min_label,
            max_letters=max_nt,
            decimal=decimal,
            head=head,
            split=split,
            folds=folds,
            fold=fold,
            long=long,
            max_tokens=max_tokens,
            device=device,
            compute_dtype=compute_dtype,
            batch_tokens=batch_tokens,
            checkpointing=checkpointing,
            offline=offline,
        )
        try:
            results = carry_out(asked, output, force=force)
        except KeyboardInterrupt:
            print("Interrupted. Run the same command to go on.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        if results is None:  # a process that helps the first one
            return
        if as_json:
            print(json.dumps(results))
        else:
            print(read_text(output / "results.md", output), end="")
