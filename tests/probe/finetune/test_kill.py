"""A run that is killed and started again gives the files of an undisturbed one, bit for bit."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import pytest
import torch

from embedstore import open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.documents import seal
from embedstore.errors import WriteFailed
from probe import runs
from probe.finetune import checkpoint
from probe.finetune.plan import plan_finetuning
from probe.finetune.runs import run_finetuning
from probe.finetune.training import FineTuning

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
    assert json.loads(one["results.json"]) == seal(killed)


def test_a_run_killed_after_its_training_does_not_train_again(
    short, plan_of, tmp_path, monkeypatch
):
    plan, folder = plan_of("lora", store=short, epochs=1), tmp_path / "run"
    draft = tmp_path / ".run.draft"
    written = runs.write_json

    def killed(path, model, value):
        if model.KIND == "results" and value["backbones"]:
            raise KeyboardInterrupt
        written(path, model, value)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            run_finetuning(plan, folder, quiet=True)
    held = contents(draft / "work" / "configuration-0000")
    assert "done.json" in held  # the result was not written: what it came from is still there
    monkeypatch.setattr(FineTuning, "one_epoch", None)  # no training from here on
    results = run_finetuning(plan, folder, quiet=True)
    assert list(results["backbones"]) == ["esm2-8m-lora"]
    assert not (folder / "work").exists()


def test_a_full_disk_is_told_in_our_words_and_the_epoch_before_stays(tuning_of, tmp_path):
    tuning = tuning_of("full")
    tuning.one_epoch()
    checkpoint.save_epoch(tmp_path, tuning, 0)
    before = contents(tmp_path)
    tuning.one_epoch()
    for bytes in (50_000, 2_500_000):  # the weights do not fit; the optimiser does not
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, limits[1]))
        try:
            with pytest.raises(WriteFailed, match="cannot be written"):
                checkpoint.save_epoch(tmp_path, tuning, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        kept = {k: v for k, v in contents(tmp_path).items() if not k.startswith(".")}
        assert kept == before
    checkpoint.save_epoch(tmp_path, tuning, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-0002"]


def test_checkpoints_need_no_hard_links(tuning_of, tmp_path, monkeypatch):
    def refused(held, name):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", refused)
    tuning = tuning_of("lora")
    tuning.one_epoch()
    checkpoint.save_epoch(tmp_path, tuning, 0)
    best = checkpoint.keep_best(tmp_path)
    kept, now = checkpoint.load_values(best), tuning.model.values()
    assert all(torch.equal(kept[name], now[name]) for name in now)
