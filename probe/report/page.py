"""The HTML page: the report's document and its runs in, one self-contained text out.

Everything a page shows is in its text: no script, font, picture or style comes from elsewhere, and
its Content-Security-Policy forbids any. Jinja escapes all values, the plots' XML writer theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.report import words
from probe.report.columns import sort_entries
from probe.report.entries import Entry, Run
from probe.report.plots import Series, confusion, curves, heat_map, scatter, score_by_size

if TYPE_CHECKING:
    from jinja2 import Template

_FOLDER = Path(__file__).parent


def report_page(document: dict[str, Any], runs: Sequence[Run]) -> str:
    """The page of a report.

    Parameters
    ----------
    document : of `report_document`
    runs : the same runs, for their predictions and learning curves
    """
    from markupsafe import Markup

    families = sorted({row["family"] for column in document["columns"] for row in column["rows"]})
    colours = {family: number for number, family in enumerate(families)}
    figures = {column["id"]: Markup(_by_size(column, colours)) for column in document["columns"]}
    panels = {
        run.name: {
            kind: [(name, Markup(svg)) for name, svg in drawn if svg]
            for kind, drawn in _panels(run).items()
        }
        for run in runs
    }
    return _template().render(
        document=document,
        views=[
            (view, list(rows)) for view, rows in groupby(document["table1"], itemgetter("view"))
        ],
        figures=figures,
        panels=panels,
        tuned=[
            run.name
            for run in runs
            if all(run.name not in column["runs"] for column in document["columns"])
        ],
        style=Markup((_FOLDER / "page.css").read_text()),
        words=words,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2")


def _by_size(column: dict[str, Any], colours: dict[str, int]) -> str:
    """Score against parameters, a line for each family; empty where no backbone has a size."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in column["rows"]:
        if row["parameters"] and row["score"] is not None and row["low"] is not None:
            families.setdefault(row["family"], []).append(row)
    if not families:
        return ""
    series = []
    for family, rows in families.items():
        rows = sorted(rows, key=lambda row: (row["parameters"], row["name"]))
        series.append(
            Series(
                family,
                colours[family],
                [row["parameters"] for row in rows],
                [row["score"] for row in rows],
                [row["low"] for row in rows],
                [row["high"] for row in rows],
                # the last point names the family, those before it their size
                [row["name"].removeprefix(f"{family}-") for row in rows[:-1]] + [rows[-1]["name"]],
            )
        )
    level = [row for row in column["rows"] if row["parameters"] == 0]
    level += column["baselines"]
    references = [(row["name"], row["score"]) for row in level if row["score"] is not None]
    return score_by_size(series, references, column["metric"])


def _panels(run: Run) -> dict[str, list[tuple[str, str]]]:
    """By kind of plot, one of each backbone: its name and the SVG, empty where it has none."""
    entries = sort_entries(run.entries)
    return {
        "predictions": [(_named(each), _draw_predictions(each)) for each in entries],
        "curves": [(_named(each), _draw_curves(each)) for each in entries],
        "grids": [(_named(each), _draw_grid(each)) for each in entries],
    }


def _named(entry: Entry) -> str:
    return f"{entry.name}: {words.score_text(entry.score)}"


def _draw_predictions(entry: Entry) -> str:
    found = entry.predictions
    if found is None or len(found.true) == 0:
        return ""
    classes = entry.run.classes
    if not classes:
        return scatter(found.true, found.predicted.mean(axis=0), entry.run.document["unit"])
    known = set(classes)
    if not known.issuperset(found.true) or not known.issuperset(np.unique(found.predicted)):
        return ""
    seeds = len(found.predicted)
    return confusion([*found.true.tolist()] * seeds, found.predicted.ravel().tolist(), classes)


def _draw_curves(entry: Entry) -> str:
    tried = [each for each in entry.values.get("configurations") or [] if each.get("curve")]
    lines = [each["curve"].get("validation_score") or [] for each in tried]
    if not any(lines):
        return ""
    chosen = _chosen(entry, tried)
    best = None if chosen is None else tried[chosen].get("best_epoch")
    return curves(lines, chosen, best, entry.run.metric)


def _draw_grid(entry: Entry) -> str:
    """Batch sizes by learning rates: the mean over seeds, the best of what else was varied.

    nan where no training could be chosen because one of its seeds, or all else, diverged.
    """
    tried = [
        each
        for each in entry.values.get("configurations") or []
        if "batch_size" in each and "learning_rate" in each
    ]
    if not tried:
        return ""
    sizes = sorted({each["batch_size"] for each in tried})
    rates = sorted({each["learning_rate"] for each in tried})

    def score(size: int, rate: float) -> float | None:
        here = [e for e in tried if (e["batch_size"], e["learning_rate"]) == (size, rate)]
        lost = [_but_seed(each) for each in here if each.get("diverged")]
        sound = [each for each in here if _but_seed(each) not in lost]
        if here and not sound:
            return math.nan
        found = [e["validation_score"] for e in sound if e["validation_score"] is not None]
        summary = np.mean if any("seed" in each for each in tried) else np.max
        return float(summary(found)) if found else None

    chosen = entry.values.get("chosen") or {}
    try:
        place = sizes.index(chosen.get("batch_size")), rates.index(chosen.get("learning_rate"))
    except ValueError:
        place = None
    return heat_map(
        "learning rate",
        "batch size",
        [f"{rate:g}" for rate in rates],
        [str(size) for size in sizes],
        [[score(size, rate) for rate in rates] for size in sizes],
        place,
    )


def _but_seed(tried: dict[str, Any]) -> tuple[Any, ...]:
    """What of a training its other seeds share, beside batch size and learning rate."""
    return tried.get("rank"), tried.get("alpha")


def _chosen(entry: Entry, tried: Sequence[dict[str, Any]]) -> int | None:
    """Which of the configurations was chosen; of several seeds, the first."""
    chosen = entry.values.get("chosen") or {}
    for number, each in enumerate(tried):
        settings = {key: value for key, value in each.items() if key in chosen}
        if settings and all(chosen[key] == value for key, value in settings.items()):
            return number
    return None
