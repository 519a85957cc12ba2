"""The command line of `probe`: options in, library calls, tables and CSV out."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from embedstore.cli import FAILED, GAPS, INTERRUPTED, errors_in_one_line, let_idle_threads_sleep
from embedstore.loaders.joined import Align
from probe.finetune.method import Method
from probe.grid import SearchRule
from probe.metrics import Metric
from probe.tasks import Kind, Task, Transform, infer_kind
from probe.training import HeadKind

Value = TypeVar("Value", int, float)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train probes on stored embeddings, and predict with them.",
)

StorePath = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder of the store, or s3://, gs://, az:// URL.")
]
CollectionName = Annotated[str, typer.Option(help="Name of the collection.")]

SplitText = Annotated[
    str,
    typer.Option(
        help="random, column:NAME, group:view, group:kmer, group:mmseqs, group:COLUMN, or the "
        "split.json of a run."
    ),
]
Folds = Annotated[int | None, typer.Option(min=3, help="Split into so many folds instead.")]
Fold = Annotated[int, typer.Option(min=0, help="The fold that tests, counted from 0.")]


@app.callback()
def main() -> None:
    """Train probes on stored embeddings, and predict with them."""
    let_idle_threads_sleep()


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
        Kind | None, typer.Option(help="Default: as the column tells; lists are per position.")
    ] = None,
    transform: Annotated[
        Transform | None, typer.Option(help="Regress this function of the label.")
    ] = None,
    min_label: Annotated[float | None, typer.Option(help="Leave smaller labels out.")] = None,
    max_nt: Annotated[
        int | None, typer.Option(min=1, help="Leave longer sequences out; letters of the record.")
    ] = None,
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

    Example: probe grid genes.store --collection genes --label label --backbone one-hot-mrna -o run
    """
    batch_sizes = _values("--batch-size", batch_size, int)
    learning_rates = _values("--learning-rate", learning_rate, float)
    from embedstore import open_store
    from embedstore.loaders import Loading
    from probe.grid import Grid
    from probe.plan import plan_run
    from probe.redo import grid_command
    from probe.runs import run_grid
    from probe.split_rules import SplitRule

    with errors_in_one_line(), _progress():
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
            kind=kind or infer_kind(opened.collection(collection).table, label),
            transform=transform,
            min_label=min_label,
            max_letters=max_nt,
            scored_by=metric,
            balance=balance,
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
            print((output / "results.md").read_text(), end="")


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
        Kind | None, typer.Option(help="Default: numbers are regressed, all else is classes.")
    ] = None,
    transform: Annotated[
        Transform | None, typer.Option(help="Regress this function of the label.")
    ] = None,
    min_label: Annotated[float | None, typer.Option(help="Leave smaller labels out.")] = None,
    max_nt: Annotated[
        int | None, typer.Option(min=1, help="Leave longer sequences out; letters of the record.")
    ] = None,
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
    from probe.finetune.asked import Asked, carry_out

    batch_sizes = None if batch_size is None else _values("--batch-size", batch_size, int)
    head_rates = None if head_lr is None else _values("--head-lr", head_lr, float)
    with errors_in_one_line(), _progress():
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
            ranks=_values("--rank", rank, int),
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
            print((output / "results.md").read_text(), end="")


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of all runs; default: named as the file."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run; write nothing.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each run's state.")] = False,
) -> None:
    """Carry out every run of a YAML file, skip what is done, and write a report.

    Exits 3 where some runs could not be made, and 1 where none could.

    Example: probe sweep sweep.yaml -o sweep
    """
    from probe.report import write_report
    from probe.sweep import listing, look_at, run_sweep
    from probe.sweep_file import read_sweep

    with errors_in_one_line(), _progress():
        asked = read_sweep(file)
        folder = output or Path(file.stem)
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        try:
            standing = look_at(asked, folder) if dry_run else run_sweep(asked, folder)
        except KeyboardInterrupt:
            print("Interrupted. Run the same command to go on.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        done = [each for each in standing if each.state == "done"]
        missing = [each for each in standing if each.problem is not None]
        if done and not dry_run:
            write_report([folder], folder / "report.html")
        if as_json:
            print(json.dumps([each.as_json() for each in standing], indent=1))
        else:
            print("\n".join(listing(standing)))
            if done and not dry_run:
                print(f"report: {folder / 'report.html'}")
    if missing:
        raise typer.Exit(FAILED if len(missing) == len(standing) else GAPS)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or sweeps.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")],
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "Probe report",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Write one page about one or more runs, with Markdown and JSON of the same name beside it.

    Example: probe report run -o report.html
    """
    from probe.report import write_report

    with errors_in_one_line(), _progress():
        document = write_report(runs, output, title)
        if as_json:
            print(json.dumps(document))
        else:
            print(f"{output}: {len(document['runs'])} runs")
            for gap in document["gaps"]:
                print(f"missing: {gap['name']} ({gap['state']})", file=sys.stderr)
    if document["gaps"]:
        raise typer.Exit(GAPS)


@app.command()
def audit(
    store: StorePath,
    collection: CollectionName,
    label: Annotated[str, typer.Option(help="Label column to look at; several with commas.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    kind: Annotated[
        Kind | None, typer.Option(help="Default: as the column tells; lists are per position.")
    ] = None,
    transform: Annotated[
        Transform | None, typer.Option(help="Regress this function of the label.")
    ] = None,
    min_label: Annotated[float | None, typer.Option(help="Leave smaller labels out.")] = None,
    max_nt: Annotated[
        int | None, typer.Option(min=1, help="Leave longer sequences out; letters of the record.")
    ] = None,
    split: SplitText = "random",
    folds: Folds = None,
    fold: Fold = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a label, its sequences and a split allow; needs no embeddings.

    Example: probe audit genes.store --collection genes --label label
    """
    from embedstore import open_store
    from probe.audited import audit_collection, audit_text
    from probe.split_rules import SplitRule

    with errors_in_one_line():
        opened = open_store(store).collection(collection)
        task = Task(
            collection=collection,
            label=label,
            kind=kind or infer_kind(opened.table, label),
            transform=transform,
            min_label=min_label,
            max_letters=max_nt,
        )
        rule = SplitRule(text=split, folds=folds, fold=fold)
        document = audit_collection(opened, task, rule, seed)
        if as_json:
            print(json.dumps(document))
        else:
            print(audit_text(document), end="")


@app.command()
def predict(
    probe: Annotated[Path, typer.Argument(metavar="PROBE", help="A probe, or a run with one.")],
    store: StorePath,
    collection: CollectionName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The CSV file to write; default stdout.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Of a fine-tuned probe's backbone: auto, cpu, cuda or cuda:N.")
    ] = "auto",
) -> None:
    """Predict for every record of a collection whose embedding is stored.

    A fine-tuned probe embeds the others itself.

    Example: probe predict run genes.store --collection genes -o predictions.csv
    """
    from embedstore import open_store
    from embedstore.store.files import write_atomically
    from probe.predict import find_probe, predict_collection
    from probe.saved import load_probe

    with errors_in_one_line():
        loaded = load_probe(find_probe(probe))
        opened = open_store(store)
        found = predict_collection(loaded, opened, opened.collection(collection), device)
        text = found.as_csv(loaded.info.objective.classes)
        if output is None:
            print(text, end="")
        else:
            write_atomically(output, text.encode())
            print(f"{output}: {len(found.ids)} predictions", file=sys.stderr)
    if found.missing:
        some = ", ".join(found.missing[:3]) + (", ..." if len(found.missing) > 3 else "")
        print(
            f"{len(found.missing)} records have no embedding under {loaded.info.recipe.name}: "
            f"{some}. `embedstore missing` tells why.",
            file=sys.stderr,
        )
        raise typer.Exit(GAPS)


def _values(option: str, text: str, kind: Callable[[str], Value]) -> tuple[Value, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no list of numbers, like 16,32", param_hint=option
        ) from None


@contextmanager
def _progress() -> Iterator[None]:
    """Show what the package logs on stderr."""
    logger = logging.getLogger("probe")
    handler = logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


if __name__ == "__main__":
    app()
