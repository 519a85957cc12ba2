"""Commands that look at labels before training, and use what was trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli import GAPS, errors_in_one_line
from probe.cli.app import (
    CollectionName,
    Decimal,
    Fold,
    Folds,
    SplitText,
    StorePath,
    app,
)
from probe.tasks import Kind, Task, Transform, infer_kind


@app.command()
def audit(
    store: StorePath,
    collection: CollectionName,
    label: Annotated[str, typer.Option(help="Label column to look at; several with commas.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
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
            kind=kind or infer_kind(opened.table, label, decimal),
            transform=transform,
            min_label=min_label,
            max_letters=max_nt,
            decimal=decimal,
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

    A fine-tuned probe embeds the others itself. Exits 3 where some records have no prediction.

    Example: probe predict run genes.store --collection genes -o predictions.csv
    """
    from embedstore import open_store
    from embedstore.store.files import write_atomically
    from probe.predict import find_probe, predict_collection
    from probe.saved import NOT_FINITE_FIX, load_probe

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
    name = loaded.info.recipe.name
    for ids, what in (
        (found.missing, f"have no embedding under {name}: {{}}. `embedstore missing` tells why."),
        (found.not_finite, f"have no prediction that is finite: {{}}. {NOT_FINITE_FIX}"),
    ):
        if ids:
            some = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
            print(f"{len(ids)} records {what.format(some)}", file=sys.stderr)
    if found.missing or found.not_finite:
        raise typer.Exit(GAPS)
