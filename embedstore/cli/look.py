"""Commands that look at a store, and the table of backbones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli.app import (
    FAILED,
    AsJson,
    Backbone,
    CollectionName,
    StorePath,
    app,
    errors_in_one_line,
    show_rows,
)
from embedstore.errors import DamagedSegment, NewerFormat, StoreError


@app.command()
def ls(
    store: StorePath,
    name: Annotated[str | None, typer.Argument(help="Collection or recipe to list.")] = None,
    as_json: AsJson = False,
) -> None:
    """List collections and recipes; with a NAME, its record ids or its keys.

    Exit 1 where one cannot be read; the others are listed all the same.

    Example: embedstore ls genes.store
    """
    from embedstore.store import open_store
    from embedstore.store.inventory import read_collections

    with errors_in_one_line():
        opened = open_store(store)
        if name is None:
            found, lost = read_collections(opened)
            rows = [{"kind": "collection", "name": each.name, "rows": len(each)} for each in found]
            problems = list(lost.values())
            for each in opened.recipes():
                try:
                    reader = opened.recipe(each)
                except (DamagedSegment, NewerFormat) as error:
                    problems.append(error)
                else:
                    rows.append({"kind": "recipe", "name": each, "rows": len(reader)})
            show_rows(rows, as_json)
            _tell(problems)
            return
        is_collection = name in opened.collections()
        names = opened.collection(name).ids if is_collection else opened.recipe(name).keys()
        print(json.dumps(names) if as_json else "\n".join(names))


def _tell(problems: Sequence[StoreError]) -> None:
    """Name what cannot be read, and exit 1 where there is any."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(FAILED)


@app.command()
def info(store: StorePath, as_json: AsJson = False) -> None:
    """Say what STORE holds: bytes, recipes, how much of each collection they cover, and whence.

    `records` is all of a collection, `with_view` those that the backbone can read at all. Drafts
    and quarantined segments are seen by no reader. Exit 1 where something cannot be read.

    Example: embedstore info genes.store
    """
    from embedstore.store import open_store
    from embedstore.store.inventory import inventory

    with errors_in_one_line():
        held = inventory(open_store(store))
        if as_json:
            print(json.dumps(held, indent=1))
        damaged = held.pop("damaged")
        for row in damaged:
            print(f"error: {row['problem']} {row['fix']}", file=sys.stderr)
        for row in held["provenance"] if not as_json else ():
            row["made"] = ", ".join(f"{name} {value}" for name, value in row["made"].items())
        for number, rows in enumerate(held.values() if not as_json else ()):
            if number and rows:
                print()
            show_rows(rows, as_json)
        if damaged:
            raise typer.Exit(FAILED)


@app.command()
def get(
    store: StorePath,
    record: Annotated[str, typer.Argument(metavar="ID", help="Record id, or a key.")],
    backbone: Backbone,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npy file to write.")],
    collection: CollectionName = None,
) -> None:
    """Write one per-token embedding, shape (L, D), as .npy.

    Example: embedstore get genes.store gene-1 --backbone one-hot-mrna -o gene-1.npy
    """
    import io

    import numpy as np

    from embedstore.store import open_store
    from embedstore.store.files import write_atomically

    with errors_in_one_line():
        rows = open_store(store).recipe(backbone).get(record, collection)
        content = io.BytesIO()
        np.save(content, rows, allow_pickle=False)
        write_atomically(output, content.getvalue())
        print(f"{output}: {rows.shape[0]} x {rows.shape[1]} {rows.dtype}", file=sys.stderr)


@app.command()
def neighbors(
    store: StorePath,
    record: Annotated[str, typer.Argument(metavar="ID", help="Record id, or a key.")],
    backbone: Backbone,
    collection: CollectionName = None,
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many.")] = 10,
    metric: Annotated[str, typer.Option(help="cosine (similarity) or l2 (distance).")] = "cosine",
    as_json: AsJson = False,
) -> None:
    """List the records whose averaged embeddings are nearest to that of a record.

    Beyond a million embeddings the search is approximate; its measured recall goes to stderr. The
    index is kept in STORE, where that may be written.

    Example: embedstore neighbors genes.store gene-1 --backbone one-hot-mrna
    """
    from embedstore.neighbors import nearest_records
    from embedstore.store import open_store

    with errors_in_one_line():
        rows, searched = nearest_records(
            open_store(store), record, backbone, collection, k=count, metric=metric
        )
        show_rows(rows, as_json)
        if searched.kind != "exact":
            print(f"approximate: recall@10 {searched.recall}", file=sys.stderr)
        for each in searched.excluded:
            print(f"left out: {each.problem}", file=sys.stderr)


@app.command()
def missing(
    store: StorePath,
    backbone: Backbone,
    collection: CollectionName = None,
    as_json: AsJson = False,
) -> None:
    """List the records without an embedding, and why.

    Example: embedstore missing genes.store --backbone one-hot-mrna
    """
    from embedstore.build.missing import missing_hints, missing_records
    from embedstore.store import open_store

    with errors_in_one_line():
        opened = open_store(store)
        problems: list[StoreError] = []
        rows = missing_records(opened, backbone, collection, problems)
        show_rows(rows, as_json)
        for hint in missing_hints(opened, rows):
            print(hint, file=sys.stderr)
        _tell(problems)


@app.command()
def backbones(as_json: AsJson = False) -> None:
    """List every backbone: what it reads, how wide and large it is, and its licence.

    Lengths are in letters of the view; sizes in bytes, of 1,000 letters in the store as float16
    and of the weights in memory.

    Example: embedstore backbones
    """
    from embedstore.backbones.specs import SPECS

    show_rows([spec.as_row() for spec in SPECS.values()], as_json)
