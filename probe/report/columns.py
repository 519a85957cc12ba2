"""One column of a report: heads of one kind on one task and split in; a table and verdicts out.

Three families of pairs are tested apart, each with Holm's adjustment of its own: every backbone
against the one-hot letters of its view, every backbone against the best, and, over a whole study,
every way of training one backbone, and its one-hot letters, against the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from probe.report.comparing import Compared, Study
from probe.report.entries import METHODS, Entry, Run
from probe.statistics import NO_DIFFERENCE

VIEWS = ("mrna", "cds", "dna", "protein")
"""Order of the views in tables; all others follow."""
ONE_HOT = {
    "mrna": ("one-hot-mrna", "one-hot-dna"),
    "cds": ("one-hot-mrna", "one-hot-dna"),
    "dna": ("one-hot-dna", "one-hot-mrna"),
    "protein": ("one-hot-protein",),
}
"""By view, the backbone that reads the same letters and has learnt nothing; the first there is."""
LETTERS = "one-hot letters"
"""Column of Table 2 beside the ways of training."""


def columns_of(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Every column: the probes of one kind of head on one task and split.

    Returns
    -------
    Plain values, None for undefined numbers; `rows` in the order of the views, one-hot first, then
    by family and size.
    """
    columns: list[dict[str, Any]] = []
    for study in studies:
        kinds: dict[tuple[str, str], list[Run]] = {}
        for run in study.runs:
            kinds.setdefault((run.head, run.document.get("search", "full")), []).append(run)
        for runs in kinds.values():
            entries = sort_entries([each for run in runs for each in run.entries])
            entries = [each for each in entries if each.method == "probe"]
            if entries:
                columns.append(_column(f"c{len(columns) + 1}", study, runs, entries))
    return columns


def sort_entries(entries: Sequence[Entry]) -> list[Entry]:
    """By view, one-hot and other weightless ones first, then family by family and by size."""

    def place(entry: Entry) -> tuple[Any, ...]:
        order = VIEWS.index(entry.view) if entry.view in VIEWS else len(VIEWS)
        size = entry.parameters if entry.parameters is not None else float("inf")
        rank = 0 if entry.is_one_hot else 1 + entry.learnt
        return order, entry.view, rank, entry.family, size, entry.name

    return sorted(entries, key=place)


def shown_names(entries: Sequence[Entry]) -> list[str]:
    """Names that tell the entries apart: with the run's where a backbone stands twice."""
    names = [entry.name for entry in entries]
    return [
        name if names.count(name) == 1 else f"{name} ({entry.run.name})"
        for name, entry in zip(names, entries, strict=True)
    ]


def task_title(run: Run) -> str:
    """`collection: unit`."""
    return f"{run.document['task']['collection']}: {run.document['unit']}"


def trainings_of(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Table 2: for each study with fine-tuning or several ways of training, backbones by ways.

    Where anything was fine-tuned, the first column is the one-hot letters of the backbone's view.
    The way of a cell's `against` is the first after that which the backbone has, in the order of
    the columns.
    """
    tables = []
    for study in studies:
        entries = [each for run in study.runs for each in run.entries]
        ways = sorted({each.training for each in entries}, key=lambda way: _way_order(way, entries))
        if len(ways) < 2 and all(each.method == "probe" for each in entries):
            continue
        by_name: dict[str, dict[str, Entry]] = {}
        for entry in sort_entries(entries):
            held = by_name.setdefault(entry.backbone, {})
            if entry.training not in held or _rank(entry) > _rank(held[entry.training]):
                held[entry.training] = entry  # of two, the better on validation
        pairs: list[tuple[Entry, Entry]] = []
        firsts: dict[str, Entry] = {}
        tuned = any(each.method != "probe" for each in entries)
        for name, held in by_name.items():
            first, *others = (held[way] for way in ways if way in held)
            firsts[name] = first
            letters = None if first.is_one_hot or not tuned else _best_one_hot(first.view, study)
            if letters is not None:
                held[LETTERS] = letters
                others = [letters, *others]
            pairs += [(other, first) for other in others]
        if any(LETTERS in held for held in by_name.values()):
            ways = [LETTERS, *ways]
        found = dict(zip(pairs, study.compare(pairs), strict=True))
        tables.append(
            {
                "title": task_title(study.runs[0]),
                "subtitle": split_text(study.runs[0]),
                "metric": study.runs[0].metric,
                "trainings": ways,
                "family": len(pairs),
                "unpaired": study.unpaired,
                "rows": [
                    {
                        "name": name,
                        "view": next(iter(held.values())).view,
                        "cells": [_cell(held.get(way), firsts[name], found) for way in ways],
                    }
                    for name, held in by_name.items()
                ],
            }
        )
    return tables


def split_text(run: Run) -> str:
    """Rule and seed of a run's split."""
    split = run.document["split"]
    return f"{split['rule']}, seed {split['seed']}"


def _column(id: str, study: Study, runs: Sequence[Run], entries: list[Entry]) -> dict[str, Any]:
    names = shown_names(entries)
    against = _against_one_hot(study, entries)
    first = runs[0]
    halving = first.document.get("search") == "halving"
    probed = {entry.name for entry in entries if entry.method == "probe"}
    baselines: dict[str, Entry] = {}
    for each in (each for run in runs for each in run.baselines):
        if each.name in probed:  # a row of its own says more
            continue
        if each.name not in baselines or _rank(each) > _rank(baselines[each.name]):
            baselines[each.name] = each  # runs of other grids have others: the better one
    return {
        "id": id,
        "title": task_title(first),
        "subtitle": f"{first.head} heads; {split_text(first)}"
        + ("; successive halving" if halving else ""),
        "metric": first.metric,
        "test_rows": first.document["split"]["n"]["test"],
        "runs": [run.name for run in runs],
        "rows": [
            _row(entry, name, against.get(entry))
            for entry, name in zip(entries, names, strict=True)
        ],
        "baselines": [
            {
                "name": name,
                "score": each.score,
                **_ends(each),
                "validation": each.values.get("validation_score"),
            }
            for name, each in baselines.items()
        ],
        "constant": {
            "name": "constant",
            "score": first.results["constant"]["test_score"],
        },
        "smallest": _smallest(study, entries, names),
    }


def _row(entry: Entry, name: str, found: tuple[Entry, Compared] | None) -> dict[str, Any]:
    values = entry.values
    seeds = [each["test_score"] for each in values.get("seeds") or []]
    return {
        "name": name,
        "run": entry.run.name,
        "recipe": values.get("recipe"),
        "view": entry.view,
        "family": entry.family,
        "one_hot": entry.is_one_hot,
        "parameters": entry.parameters,
        "head_parameters": values.get("parameters_trained", values.get("parameters")),
        "score": entry.score,
        **_ends(entry),
        "seeds": seeds,
        "validation": values.get("validation_score"),
        "shuffled": values.get("shuffled_labels_test_score"),
        "chosen": _settings(values.get("chosen") or {}),
        "best_epoch": values.get("best_epoch"),
        "against": None if found is None else found[0].name,
        "compared": None if found is None else found[1].as_json(),
        "seconds": values.get("seconds"),
        "configurations": len(values.get("configurations") or []),
        "width": values.get("width"),
        "features": values.get("memory"),
        "peak_bytes": values.get("peak_bytes"),
    }


def _settings(chosen: dict[str, Any]) -> dict[str, Any]:
    """What of the chosen configuration was searched for."""
    fixed = ("epochs", "patience", "seed", "dropout", "weight_decay", "method")
    return {
        name: value for name, value in chosen.items() if name not in fixed and value is not None
    }


def _ends(entry: Entry) -> dict[str, float | None]:
    low, high = entry.interval
    return {"low": low, "high": high}


def _against_one_hot(study: Study, entries: Sequence[Entry]) -> dict[Entry, tuple[Entry, Compared]]:
    """Every backbone but one-hot itself with the one-hot of its view, and how they compare."""
    pairs = []
    for entry in entries:
        letters = None if entry.is_one_hot else _one_hot_of(entry, entries)
        if letters is not None:
            pairs.append((entry, letters))
    return {
        entry: (letters, compared)
        for (entry, letters), compared in zip(pairs, study.compare(pairs), strict=True)
    }


def _one_hot_of(entry: Entry, entries: Sequence[Entry]) -> Entry | None:
    """That of the same run where it has one: as a backbone, or as a baseline."""
    for name in ONE_HOT.get(entry.view, ()):
        held = [*entry.run.entries, *entry.run.baselines, *entries]
        for each in held:
            if each.name == name and each.method == "probe":
                return each
    return None


def _best_one_hot(view: str, study: Study) -> Entry | None:
    """Of a whole study the letters of a view that are best on validation, trained by themselves.

    A fine-tuning run trains its own for as few epochs as the backbone, so the first that comes
    along would be too weak a rival.
    """
    for name in ONE_HOT.get(view, ()):
        held = [each for run in study.runs for each in (*run.entries, *run.baselines)]
        held = [each for each in held if each.name == name and each.method == "probe"]
        if held:
            return max(held, key=_rank)
    return None


def _smallest(study: Study, entries: list[Entry], names: list[str]) -> dict[str, Any] | None:
    """The smallest backbone that is not detectably worse than the best, and such baselines.

    Best is by test score, so partly by luck: that makes others look worse than they are, not
    better. One-hot letters have no parameters.
    """
    known = [
        (entry, name) for entry, name in zip(entries, names, strict=True) if entry.score is not None
    ]
    if len(known) < 2:
        return None
    best, best_name = max(known, key=lambda each: _score(each[0]))
    others = [each for each in known if each[0] is not best]
    baselines = [each for each in best.run.baselines if each.score is not None]
    pairs = [(entry, best) for entry in [*(entry for entry, _ in others), *baselines]]
    tested = study.compare(pairs)
    compared = tested[: len(others)]
    fits = [
        (entry.parameters, -_score(entry), name, entry, found)
        for (entry, name), found in zip(others, compared, strict=True)
        if found.verdict == NO_DIFFERENCE and entry.parameters is not None
    ]
    if best.parameters is not None:
        fits = [each for each in fits if each[0] <= best.parameters]
    chosen = min(fits, key=lambda each: each[:3]) if fits else None
    untested = [n for (_, n), found in zip(others, compared, strict=True) if found.p_holm is None]
    unsized = [name for entry, name in known if entry.parameters is None]
    answer: dict[str, Any] = {
        "best": best_name,
        "best_score": best.score,
        "best_parameters": best.parameters,
        "family": len(pairs),
        "untested": untested,
        "baselines": [
            {"name": each.name, "score": each.score}
            for each, found in zip(baselines, tested[len(others) :], strict=True)
            if found.verdict == NO_DIFFERENCE
        ],
        "unsized": unsized,
        "name": best_name,
        "score": best.score,
        "parameters": best.parameters,
        "compared": None,
    }
    if chosen is not None:
        _, _, name, entry, found = chosen
        answer |= {
            "name": name,
            "score": entry.score,
            "parameters": entry.parameters,
            "compared": found.as_json(),
        }
    return answer


def _cell(
    entry: Entry | None, first: Entry, found: dict[tuple[Entry, Entry], Compared]
) -> dict[str, Any] | None:
    if entry is None:
        return None
    compared = found.get((entry, first))
    values = entry.values
    return {
        "run": entry.run.name,
        "score": entry.score,
        **_ends(entry),
        "parameters_trained": values.get("parameters_trained", values.get("parameters")),
        "seconds": values.get("seconds"),
        "peak_bytes": values.get("peak_bytes"),
        "against": None if compared is None else first.training,
        "compared": None if compared is None else compared.as_json(),
    }


def _way_order(way: str, entries: Sequence[Entry]) -> tuple[Any, ...]:
    """Probes first and the paper's TextCNN before other heads, then LoRA, then full."""
    entry = next(each for each in entries if each.training == way)
    known = list(METHODS)
    method = known.index(entry.method) if entry.method in known else len(known)
    return method, entry.run.head != "TextCNN", way


def _rank(entry: Entry) -> float:
    value = entry.values.get("validation_score")
    return float("-inf") if value is None else float(value)


def _score(entry: Entry) -> float:
    return float("-inf") if entry.score is None else entry.score
