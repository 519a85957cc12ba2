"""Small finished runs to report on: one epoch each, made once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from embedstore.documents import seal
from probe.grid import Grid
from probe.plan import plan_run
from probe.runs import run_grid
from probe.split_rules import SplitRule
from probe.tasks import Task

BOTH = ["one-hot-mrna", "one-hot-protein"]
TASK = Task(collection="genes", label="label", kind="regression")
ONE = Grid(batch_sizes=(16, 32), learning_rates=(9e-4,), epochs=1)


@pytest.fixture(scope="session")
def made(store, tmp_path_factory) -> Path:
    """Runs `whole`, `other-split` (another seed) and `classes`; never to be changed."""
    folder = tmp_path_factory.mktemp("reported")
    asked = {
        "whole": (TASK, ONE, BOTH),
        "other-split": (TASK, replace(ONE, seed=1), BOTH[:1]),
        "classes": (replace(TASK, label="side", kind="classification"), ONE, BOTH),
    }
    for name, (task, grid, backbones) in asked.items():
        plan = plan_run(store, task, backbones, grid, split_rule=SplitRule())
        run_grid(plan, folder / name, command=f"probe grid genes.store -o {name}")
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """Copy a run, changing its documents: `copy("whole", "lora", edit)`."""

    def make(name, new, edit=lambda run, results: None):
        folder = tmp_path / new
        shutil.copytree(made / name, folder)
        run, results = (json.loads((folder / f"{d}.json").read_text()) for d in ("run", "results"))
        edit(run, results)
        (folder / "run.json").write_text(json.dumps(seal(run)))
        (folder / "results.json").write_text(json.dumps(seal(results)))
        return folder

    return make


def rename(folder: Path, results: dict, old: str, new: str) -> None:
    """Give a backbone of a copied run another name, everywhere."""
    results["backbones"][new] = results["backbones"].pop(old)
    found = results["comparisons"]
    found["intervals"][new] = found["intervals"].pop(old)
    for pair in found["pairs"]:
        for side in ("first", "second"):
            pair[side] = new if pair[side] == old else pair[side]
    (folder / "predictions" / f"{old}.csv").rename(folder / "predictions" / f"{new}.csv")
