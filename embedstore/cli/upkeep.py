"""Commands that check, mend, tidy and join stores."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from embedstore.cli.app import (
    FAILED,
    AsJson,
    StorePath,
    app,
    errors_in_one_line,
    show,
    show_rows,
)


@app.command()
def verify(
    store: StorePath,
    backbone: Annotated[
        str | None, typer.Option(help="Check this backbone or recipe folder alone.")
    ] = None,
    sample: Annotated[
        float | None, typer.Option(help="Check so many sequences a recipe, or a part below 1.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every checksum, count and key in STORE; exit 1 where something is damaged.

    Example: embedstore verify genes.store --sample 1000
    """
    from embedstore.store.store import open_damaged_store
    from embedstore.store.verify import verify as run_verify

    with errors_in_one_line():
        report = run_verify(open_damaged_store(store), backbone, sample=sample)
        if as_json:
            print(json.dumps(report.as_json(), indent=1))
        else:
            for problem in report.problems:
                print(problem)
        counts = ", ".join(f"{count:,} {name}" for name, count in report.checked.items())
        print(f"Checked {counts}: {len(report.problems)} problems.", file=sys.stderr)
        if not report.whole:
            print("`embedstore repair` sets aside what is damaged.", file=sys.stderr)
            raise typer.Exit(FAILED)


@app.command()
def repair(store: StorePath, as_json: AsJson = False) -> None:
    """Move damaged segments and collections of STORE to quarantine; the next build makes them anew.

    A damaged recipe.json is restored from a segment, and the document of a collection from its
    table file. Nothing is deleted. Exit 1 where something is
    left that only a copy can mend.

    Example: embedstore repair genes.store
    """
    from embedstore.store.repair import repair as run_repair
    from embedstore.store.store import open_damaged_store

    with errors_in_one_line():
        report = run_repair(open_damaged_store(store))
        if as_json:
            print(json.dumps(report.as_json(), indent=1))
        else:
            for where in [
                *report.store_restored,
                *report.recipes_restored,
                *report.collections_restored,
                *report.quarantined,
                *report.collections_quarantined,
                *report.index_removed,
            ]:
                print(where)
        for problem in report.left:
            print(f"not repaired: {problem}", file=sys.stderr)
        if report.quarantined:
            print("Build again to embed what was set aside.", file=sys.stderr)
        if report.collections_quarantined:
            print(
                "Build the input of these collections again; embeddings are kept.", file=sys.stderr
            )
        if report.left:
            raise typer.Exit(FAILED)


@app.command()
def gc(
    store: StorePath,
    older_than: Annotated[
        str, typer.Option(help="Age of what to remove: a number and s, m, h or d.")
    ] = "24h",
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Remove what repair set aside, too.")
    ] = False,
    redundant: Annotated[
        bool, typer.Option("--redundant", help="Remove segments that no reader uses, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would go; remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what killed builds left in STORE, and neighbour indexes that were replaced.

    Example: embedstore gc genes.store --dry-run
    """
    from dataclasses import asdict

    from embedstore.store import open_store
    from embedstore.store.gc import collect_garbage, parse_age

    with errors_in_one_line():
        removed = collect_garbage(
            open_store(store),
            older_than=parse_age(older_than),
            quarantine=quarantine,
            redundant=redundant,
            dry_run=dry_run,
        )
        show_rows([asdict(each) for each in removed], as_json)


@app.command()
def merge(
    stores: Annotated[
        list[str], typer.Argument(metavar="SOURCE... INTO", help="Stores; the last is written.")
    ],
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Name collections SOURCE-NAME, after their stores.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy collections and embeddings of every SOURCE into the store INTO, checking them.

    Exit 1 where damaged segments were left out.

    Example: embedstore merge node-1.store node-2.store all.store
    """
    from embedstore.store import open_store
    from embedstore.store.merge import merge as run_merge

    with errors_in_one_line():
        if len(stores) < 2:
            raise typer.BadParameter("name at least one SOURCE, and INTO")
        *sources, into = stores
        report = run_merge([open_store(source) for source in sources], into, prefix=prefix)
        values = report.as_json()
        if not as_json:
            values["collections"] = ", ".join(report.collections) or "none new"
            values["damaged"] = len(report.damaged)
        show(values, as_json)
        for line in report.damaged:
            print(f"left out: {line}", file=sys.stderr)
        if not report.whole:
            raise typer.Exit(FAILED)
