"""Reports for people: folders of runs in; one page, Markdown and JSON out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedstore.errors import BadInput
from embedstore.store.files import write_atomically
from probe.documents import json_text
from probe.report.document import report_document
from probe.report.entries import find_runs, read_run
from probe.report.markdown import report_markdown
from probe.report.page import report_page
from probe.report.results_table import results_table

__all__ = ["report_document", "results_table", "write_report", "write_run_report"]


def write_report(
    paths: Sequence[Path], output: Path, title: str = "Probe report"
) -> dict[str, Any]:
    """Write the page, and beside it `.md` and `.json` of the same name; the JSON comes back.

    Parameters
    ----------
    paths : folders of runs or of sweeps
    output : the page, a name that ends in `.html`

    Raises
    ------
    BadInput
        A folder holds no run, or the output is no `.html`.
    WriteFailed
    """
    if output.suffix != ".html":
        raise BadInput(f"The page cannot be named {output.name!r}.", "End -o in .html.")
    runs, gaps = find_runs(paths)
    document = report_document(runs, gaps, title)
    write_atomically(output, report_page(document, runs).encode())
    write_atomically(output.with_suffix(".md"), report_markdown(document).encode())
    write_atomically(output.with_suffix(".json"), json_text(document).encode() + b"\n")
    return document


def write_run_report(folder: Path, name: str) -> None:
    """Write `results.md` and `report.html` into a run's folder, from what else stands there.

    Parameters
    ----------
    name : that the folder will have when it is published
    """
    run = read_run(folder, name)
    write_atomically(folder / "results.md", results_table(run.document, run.results).encode())
    write_atomically(folder / "report.html", report_page(report_document([run]), [run]).encode())
