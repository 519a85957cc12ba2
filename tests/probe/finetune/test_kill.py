"""A run that is killed and started again gives the files of an undisturbed one, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import torch

from embedstore import open_store
from embedstore.backbones.load import BackboneConfig, prepare
from probe.finetune import checkpoint
from probe.finetune.plan import plan_finetuning
from probe.finetune.runs import run_finetuning

from .conftest import TASK, grid_of

RUN = """
import sys
from pathlib import Path
import torch
from embedstore import open_store
from embedstore.backbones.load import BackboneConfig, prepare
from probe.finetune import FinetuneGrid, plan_finetuning
from probe.finetune.runs import run_finetuning
from probe.tasks import Task
torch.set_num_threads(1)
store, weights, folder = map(Path, sys.argv[1:])
task = Task(collection="genes", label="label", kind="regression")
small = {"batch_sizes": (16,), "learning_rates": (9e-4,), "epochs": 6, "patience": 6}
grid = FinetuneGrid(method="full", **small)
base = prepare(BackboneConfig(backbone="esm2-8m", weights=weights, device="cpu"))
run_finetuning(plan_finetuning(open_store(store), task, base, grid), folder, quiet=True)
"""
EPOCHS = 6


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def untimed(document):
    """Results without seconds and bytes, which no two runs share."""
    if isinstance(document, dict):
        timed = ("seconds", "peak_bytes")
        return {key: untimed(value) for key, value in document.items() if key not in timed}
    return [untimed(each) for each in document] if isinstance(document, list) else document


def test_a_killed_run_goes_on_and_ends_as_if_undisturbed(short, tiny_esm, tmp_path):
    folder = tmp_path / "killed"
    words = [sys.executable, "-c", RUN, short.folder, tiny_esm, folder]
    work = tmp_path / ".killed.draft" / "work" / "configuration-0000"
    with subprocess.Popen(words) as process:
        while process.poll() is None and checkpoint.latest(work) is None:
            time.sleep(0.005)
        time.sleep(0.02)  # somewhere in a later epoch
        process.kill()
    assert process.returncode == -9, "it was killed, not done"
    at = checkpoint.latest(work)
    assert at is not None and not folder.exists()
    reached = int(at.name.removeprefix("epoch-"))
    assert 1 <= reached < EPOCHS

    def run(folder):
        base = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))
        grid = grid_of("full", epochs=EPOCHS, patience=EPOCHS)
        plan = plan_finetuning(open_store(short.folder), TASK, base, grid)
        return run_finetuning(plan, folder, quiet=True)

    torch.manual_seed(12345)  # the global generator has no part in it
    killed, undisturbed = run(folder), run(tmp_path / "undisturbed")
    assert untimed(killed) == untimed(undisturbed)
    curve = killed["backbones"]["esm2-8m-full"]["configurations"][0]["curve"]
    assert len(curve["train_loss"]) == EPOCHS
    one, other = contents(folder), contents(tmp_path / "undisturbed")
    assert one.keys() == other.keys()
    differ = {name for name in one if one[name] != other[name]}
    assert differ <= {"results.json", "results.md", "report.html"}  # they hold seconds
    assert json.loads(one["results.json"]) == killed
