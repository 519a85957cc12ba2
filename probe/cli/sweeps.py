"""Many runs from one file, and a report of runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli import FAILED, GAPS, INTERRUPTED, errors_in_one_line
from probe.cli.app import (
    app,
    showing_progress,
)


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

    Exits 3 where some runs, or backbones of a run, could not be made, and 1 where none could.

    Example: probe sweep sweep.yaml -o sweep
    """
    from probe.report import write_report
    from probe.sweep import listing, look_at, run_sweep
    from probe.sweep_file import read_sweep

    with errors_in_one_line(), showing_progress():
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
        none = len(missing) == len(standing) and not done
        raise typer.Exit(FAILED if none else GAPS)


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

    with errors_in_one_line(), showing_progress():
        document = write_report(runs, output, title)
        if as_json:
            print(json.dumps(document))
        else:
            print(f"{output}: {len(document['runs'])} runs")
            for gap in document["gaps"]:
                print(f"missing: {gap['name']} ({gap['state']})", file=sys.stderr)
    if document["gaps"]:
        raise typer.Exit(GAPS)
