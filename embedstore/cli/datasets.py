"""Commands that list, fetch and make data sets."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli.app import AsJson, data, errors_in_one_line, show, show_rows

Folder = Annotated[
    Path | None,
    typer.Option("--from", metavar="DIR", help="Folder with the files; no network is used."),
]


@data.command("ls")
def list_data_sets(folder: Folder = None, as_json: AsJson = False) -> None:
    """List the registered data sets: task, metric, licence, source, and whether they are at hand.

    Rows are those of the files, before cleaning; `at hand` says that the folder of --from or
    EMBEDSTORE_DATA has files of these names.

    Example: embedstore data ls
    """
    from embedstore.datasets import DATA_SETS
    from embedstore.datasets.at_hand import data_folder, is_at_hand

    local = folder or data_folder()
    rows = [
        {
            "name": entry.name,
            "rows": entry.rows,
            "task": entry.target.kind,
            "label": entry.target.label,
            "metric": entry.target.metric,
            "licence": entry.licence.name,
            "download": entry.downloads,
            "at hand": is_at_hand(entry, [local] if local else []),
            "source": entry.source,
        }
        for entry in DATA_SETS.values()
    ]
    show_rows(rows, as_json)


@data.command("show")
def show_data_set(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set of `data ls`.")],
    as_json: AsJson = False,
) -> None:
    """Say all that is registered of a data set: files, checksums, licence, task, cleaning preset.

    Example: embedstore data show icodon-test
    """
    from embedstore.datasets import find_data_set

    with errors_in_one_line():
        entry = find_data_set(name)
    if as_json:
        print(json.dumps(entry.as_json(), indent=1))
        return
    target, preset = entry.target, entry.preset
    show(
        {
            "name": entry.name,
            "title": entry.title,
            "about": entry.about,
            "source": entry.source,
            "licence": f"{entry.licence.name}; {entry.licence.url}",
            "licence asks": entry.licence.asks,
            "--accept-licence": "needed" if entry.licence.must_accept else "not needed",
            "rows": entry.rows,
            "columns": f"id {entry.id_column or 'by number'}, sequence {entry.sequence_column}",
            "task": f"{target.kind} of {target.label}, scored by {target.metric}",
            "transform": target.transform,
            "smallest label": target.min_label,
            "other labels": ", ".join(entry.other_labels) or None,
            "coding sequences alone": preset.coding,
            "longest, nt": preset.max_nt,
            "averaged by sequence": preset.average,
            "rows kept have": f"{preset.keep[0]} {preset.keep[1]}" if preset.keep else None,
        },
        False,
    )
    for part in entry.parts:
        for form in part.forms:
            print(f"{'file':24} {form.name}  {form.checksum}  {form.url or 'no download'}")


@data.command("fetch")
def fetch_data_set(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set of `data ls`.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder or .parquet file; default: this folder."),
    ] = None,
    folder: Folder = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the licence and agree to it.")
    ] = False,
    max_nt: Annotated[
        int | None, typer.Option(min=1, help="Longest sequence; default the preset's.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The files as they are: checked, but not cleaned.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a data set, check it, and write a cleaned table that `embedstore build` reads.

    Files come from --from, or from EMBEDSTORE_DATA, or else over the network, where an
    interrupted download goes on. Prints the commands that use the table.

    Example: embedstore data fetch icodon-test -o icodon-test.parquet
    """
    from embedstore.datasets import (
        FetchConfig,
        commands,
        fetch,
        fetch_raw,
        find_data_set,
    )
    from embedstore.datasets.fetch import table_path

    with errors_in_one_line(), _progress():
        entry = find_data_set(name)
        config = FetchConfig(folder=folder, accept_licence=accept_licence, max_nt=max_nt)
        if accept_licence or not entry.licence.must_accept:
            print(f"Licence: {entry.licence.name}. {entry.licence.asks}", file=sys.stderr)
        if raw:
            made = [str(path) for path in fetch_raw(entry, output or Path(), config)]
            print(json.dumps(made) if as_json else "\n".join(made))
            return
        done = fetch(entry, table_path(entry, output), config)
        lines = commands(entry, done.table)
    if as_json:
        print(json.dumps(done.document | {"path": str(done.table), "commands": lines}))
        return
    print(f"{done.document['rows_in']:,} rows read", file=sys.stderr)
    for step in done.steps:
        print(f"{step.dropped:8,} {step.what}; {step.left:,} left", file=sys.stderr)
    print(f"{done.table}: {done.rows:,} rows", file=sys.stderr)
    print("\n".join(lines))


@data.command()
def synthetic(
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV file to write.")],
    rows: Annotated[int, typer.Option(min=1, help="How many genes.")] = 1500,
    seed: Annotated[int, typer.Option(help="Same seed, same genes.")] = 0,
) -> None:
    """Write SYNTHETIC coding sequences with a planted signal, to try the tool on.

    Example: embedstore data synthetic --rows 1500 -o synthetic.csv
    """
    from embedstore.store.files import write_atomically
    from embedstore.synthetic import make_genes

    with errors_in_one_line():
        write_atomically(output, make_genes(rows, seed).as_csv().encode())
        print(f"{output}: {rows} synthetic genes", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[None]:
    """Show what a download logs on stderr."""
    logger = logging.getLogger("embedstore.datasets")
    handler = logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
