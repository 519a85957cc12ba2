"""Runs as a report reads them: folders in; runs, their trained heads and predictions out.

Fields that only some versions or some kinds of runs write (seeds, methods, sizes of features) are
read where they are and done without where they are not.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.backbones.specs import BackboneSpec, find_spec
from embedstore.errors import BadInput, UnknownBackbone
from probe.predictions import TestRows, read_groups, read_test_rows
from probe.report.results_table import HEADS
from probe.run_documents import RESULTS, SWEEP, read_both, read_sweep_document

METHODS = {"probe": "probe", "lora": "LoRA", "full": "full fine-tuning"}
"""How people write the ways of training, in the order of the paper's Table 2."""

_RECIPE = re.compile(r"(.+)-[0-9a-f]{10}")


@dataclass(frozen=True, eq=False)
class Run:
    """One run's folder."""

    name: str
    folder: Path
    document: dict[str, Any]
    """`run.json`."""
    results: dict[str, Any]
    """`results.json`."""

    @property
    def metric(self) -> str:
        """That every score is in."""
        return str(self.results["metric"])

    @property
    def head(self) -> str:
        """Kind of head, as people write it."""
        kind = str(self.document.get("head", "head"))
        return HEADS.get(kind, kind)

    @property
    def classes(self) -> list[str]:
        """Of a classification; empty for a regression."""
        return list(self.document.get("classes", ()))

    @property
    def study(self) -> str:
        """Equal for runs whose test rows and labels are the same."""
        return json.dumps([self.document["task"], self.document["split"]["digest"]])

    @cached_property
    def entries(self) -> list[Entry]:
        """The heads on each backbone."""
        return [Entry(self, name, each) for name, each in self.results["backbones"].items()]

    @cached_property
    def baselines(self) -> list[Entry]:
        """Predictors without a backbone, and one-hot letters that are no backbone of this run."""
        found = self.results.get("baselines", {})
        return [Entry(self, name, each, "baselines") for name, each in found.items()]

    @cached_property
    def groups(self) -> dict[str, str] | None:
        """By id, which test rows share an input; None where the run did not write it down."""
        return read_groups(self.folder)


@dataclass(frozen=True, eq=False)
class Entry:
    """What one run made of one backbone, or one of its baselines."""

    run: Run
    name: str
    values: dict[str, Any]
    folder: str = "predictions"

    @property
    def score(self) -> float | None:
        """On the test rows; the mean over seeds where there are several."""
        score: float | None = self.values["test_score"]
        return score

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """Ends of the 95 % interval of the score."""
        found = self.run.results.get("comparisons", {}).get("intervals", {}).get(self.name)
        return (None, None) if found is None else (found[0], found[1])

    @property
    def method(self) -> str:
        """`probe`, `lora` or `full`."""
        told = self.values.get("method") or self.run.document.get("method") or "probe"
        return str(told)

    @property
    def training(self) -> str:
        """How it was trained, as people write it: `TextCNN probe`, `LoRA`."""
        said = METHODS.get(self.method, self.method)
        return f"{self.run.head} {said}" if self.method == "probe" else said

    @property
    def backbone(self) -> str:
        """The name without the method that fine-tuning puts behind it."""
        return self.name.removesuffix(f"-{self.method}")

    @cached_property
    def specs(self) -> list[BackboneSpec]:
        """What the table of backbones knows of it: several where recipes were joined, or none."""
        try:
            return [_spec_of(part) for part in self.backbone.split("+")]
        except UnknownBackbone:
            return []

    @property
    def family(self) -> str:
        """`esm2`, `one-hot`, ...; the name itself where that is not known."""
        return "+".join(spec.family for spec in self.specs) or self.backbone

    @property
    def view(self) -> str:
        """What the backbone reads."""
        known = "+".join(dict.fromkeys(spec.view for spec in self.specs))
        return str(self.values.get("view") or known or "other")

    @property
    def parameters(self) -> int | None:
        """Of the backbone as published; None where it is unknown or of another width."""
        if not self.specs:
            return None
        width = self.values.get("width")
        if width is not None and width != sum(spec.width for spec in self.specs):
            return None  # other weights than the table's
        return sum(spec.parameters for spec in self.specs)

    @property
    def is_one_hot(self) -> bool:
        """The letters themselves."""
        return self.family == "one-hot"

    @property
    def learnt(self) -> bool:
        """Whether any of its weights were trained before."""
        return any(spec.needs_weights for spec in self.specs) or not self.specs

    @property
    def is_finite(self) -> bool:
        """Whether its test predictions are finite, as far as there are any."""
        found = self.predictions
        return found is None or bool(self.run.classes) or bool(np.isfinite(found.predicted).all())

    @cached_property
    def predictions(self) -> TestRows | None:
        """None where there are none, or in lists, as older runs of several outputs wrote them."""
        path = self.run.folder / self.folder / f"{self.name}.csv"
        if not os.path.lexists(path):
            return None
        return read_test_rows(path, self.run.classes, within=self.run.folder)


def _spec_of(name: str) -> BackboneSpec:
    recipe = _RECIPE.fullmatch(name)
    return find_spec(recipe[1] if recipe else name)


def read_run(folder: Path, name: str | None = None) -> Run:
    """The run in a folder.

    Raises
    ------
    BadInput
        There is no finished run, or its documents are damaged.
    NewerFormat
        A later version wrote it.
    """
    document, results = read_both(folder)
    return Run(name or folder.resolve().name, folder, document.values(), results.values())


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[dict[str, Any]]]:
    """The runs of folders, each a run or a sweep, and what the sweeps lack.

    Returns
    -------
    Runs, in the order asked; and for each run that a sweep has not finished its `name`, `state`
    and `problem`.

    Raises
    ------
    BadInput
        A folder is neither, one is named twice, or there is no finished run at all.
    """
    folders: list[Path] = []
    gaps: list[dict[str, Any]] = []
    for path in paths:
        if not (path / SWEEP).exists():
            folders.append(path)
            continue
        for planned in read_sweep_document(path).runs:
            if (path / planned.name / RESULTS).exists():
                folders.append(path / planned.name)
            else:
                gaps.append(planned.model_dump(include={"name", "state", "problem"}))
    for first, second in itertools.combinations(folders, 2):
        if first.resolve() == second.resolve():
            raise BadInput(f"{str(second)!r} is named twice.", "Name each run once.")
    if not folders:
        raise BadInput("There is no finished run to report.", "Finish one, or name another folder.")
    short = [folder.resolve().name for folder in folders]
    names = [
        name if short.count(name) == 1 else str(folder)
        for name, folder in zip(short, folders, strict=True)
    ]
    return [read_run(each, name) for each, name in zip(folders, names, strict=True)], gaps
