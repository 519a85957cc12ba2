"""The report as one document: runs in; what `report.json` holds, and pages are made of, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from probe.report.columns import VIEWS, columns_of, split_text, task_title, trainings_of
from probe.report.comparing import Study, group_studies
from probe.report.entries import Run

FORMAT = 1


def report_document(
    runs: Sequence[Run], gaps: Sequence[dict[str, Any]] = (), title: str = "Probe report"
) -> dict[str, Any]:
    """Everything that a report says, without its plots; the same runs give the same document.

    Parameters
    ----------
    gaps : runs of a sweep that are not there, with `name`, `state` and `problem`; backbones on
        which training diverged are added
    """
    studies = group_studies(runs)
    columns = columns_of(studies)
    return {
        "kind": "report",
        "format": FORMAT,
        "title": title,
        "audit": _audit(runs),
        "gaps": [*gaps, *_diverged(runs)],
        "notes": _notes(studies),
        "table1": _first_table(columns),
        "columns": columns,
        "table2": trainings_of(studies),
        "runs": [_run(run) for run in runs],
    }


def _audit(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What was refused, then what was warned of; each sentence once, with the runs it is about."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for level in ("refusals", "warnings"):
        for run in runs:
            for sentence in run.results.get("audit", {}).get(level, ()):
                said.setdefault((level, task_title(run), sentence), []).append(run.name)
    return [
        {"level": "refused" if level == "refusals" else "warning", "task": task,
         "sentence": sentence, "runs": names}
        for (level, task, sentence), names in said.items()
    ]  # fmt: skip


def _diverged(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Backbones of the runs that have no usable head."""
    gaps = []
    for run in runs:
        problems = {name: each["problem"] for name, each in run.results.get("diverged", {}).items()}
        for entry in run.entries:
            if not entry.is_finite:  # runs of before such heads were refused
                problems[entry.name] = "training diverged: its test predictions are not finite."
        for name, problem in problems.items():
            gaps.append({"name": f"{run.name}: {name}", "state": "diverged", "problem": problem})
    return gaps


def _notes(studies: Sequence[Study]) -> list[str]:
    """Why runs that stand side by side were not compared row by row."""
    notes = [
        f"{', '.join(run.name for run in study.runs)}: no paired comparison between these runs, "
        f"since {study.unpaired}."
        for study in studies
        if study.unpaired is not None
    ]
    by_task: dict[str, list[Study]] = {}
    for study in studies:
        by_task.setdefault(task_title(study.runs[0]), []).append(study)
    for task, alike in by_task.items():
        if len(alike) < 2:
            continue
        splits = "; ".join(
            f"{', '.join(run.name for run in study.runs)} ({split_text(study.runs[0])}, digest "
            f"{study.runs[0].document['split']['digest'][:8]})"
            for study in alike
        )
        notes.append(
            f"{task}: runs differ in split or in the filters of the task, so they were tested on "
            f"different rows and stand side by side without a paired comparison: {splits}."
        )
    return notes


def _first_table(columns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Table 1: a row for each backbone, under its view; a cell for each column, None if absent."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for at, column in enumerate(columns):
        scores = [row["score"] for row in column["rows"] if row["score"] is not None]
        for row in column["rows"]:
            held = rows.setdefault(
                (row["view"], row["name"]),
                {
                    **{key: row[key] for key in ("view", "name", "one_hot", "parameters")},
                    "cells": [None] * len(columns),
                },
            )
            held["cells"][at] = {
                **{key: row[key] for key in ("score", "low", "high")},
                "verdict": None if row["compared"] is None else row["compared"]["verdict"],
                "best": row["score"] is not None and row["score"] == max(scores),
            }
    order = [*VIEWS, *sorted({view for view, _ in rows} - {*VIEWS})]
    return sorted(rows.values(), key=lambda row: order.index(row["view"]))  # stable


def _run(run: Run) -> dict[str, Any]:
    document = run.document
    return {
        "name": run.name,
        "title": task_title(run),
        "head": run.head,
        "search": document.get("search", "full"),
        "grid": document.get("grid"),
        "backbones": document.get("backbones", {}),
        "rows": document["rows"],
        "split": document["split"],
        "resampled": run.results.get("comparisons", {}).get("resampled"),
        "versions": document.get("versions", {}),
        "command": document.get("command"),
    }
