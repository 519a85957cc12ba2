"""Fine-tuning that diverges: one line, and nothing is written; other configurations win."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from embedstore.errors import Diverged
from probe import cli
from probe.finetune.checkpoint import latest
from probe.finetune.export import export
from probe.finetune.runs import run_finetuning
from probe.finetune.search import Search, make_model
from probe.finetune.workers import ALONE


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_that_diverges_is_one_line_and_leaves_nothing(store, tiny_esm, tmp_path, method):
    words = ["finetune", store.folder, "--collection", "genes", "--label", "label"]
    words += ["--backbone", "esm2-8m", "--weights", tiny_esm, "--method", method, "--device", "cpu"]
    words += [
        "--rank",
        "2",
        "--alpha",
        "1x",
        "--epochs",
        "3",
        "--head-lr",
        "1e30",
        "--threads",
        "1",
    ]
    done = CliRunner().invoke(cli.app, [*map(str, words), "-o", str(tmp_path / "run")])
    assert done.exit_code == 1
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("error:")]
    assert f"esm2-8m-{method}: training diverged (learning rate 1e+30, " in line
    assert "--head-lr" in line
    assert not [*tmp_path.iterdir()]


def test_the_configurations_that_did_not_diverge_are_chosen_from(short, plan_of, tmp_path):
    plan = plan_of("lora", store=short, learning_rates=(1e30, 9e-4), seeds=2, epochs=1)
    results = run_finetuning(plan, tmp_path / "run", quiet=True)
    (one,) = results["backbones"].values()
    assert one["chosen"]["learning_rate"] == 9e-4
    assert [each.get("diverged", False) for each in one["configurations"]] == [True] * 2 + [
        False
    ] * 2
    assert [each["best_epoch"] for each in one["configurations"]] == [None, None, 1, 1]
    assert "NaN" not in (tmp_path / "run" / "results.json").read_text()


def test_a_killed_training_that_had_broken_stays_broken(short, plan_of, tmp_path, monkeypatch):
    plan = plan_of("lora", store=short, learning_rates=(1e30,), epochs=3)

    def killed(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("probe.finetune.search.forget_epochs", killed)
    with pytest.raises(KeyboardInterrupt):
        Search(plan, tmp_path, ALONE, quiet=True).choose(plan.grid.tunings())
    (tmp_path / "configuration-0000" / "done.json").unlink()
    assert latest(tmp_path / "configuration-0000") is not None
    monkeypatch.undo()
    with pytest.raises(Diverged, match=r"training diverged \(learning rate 1e\+30"):
        Search(plan, tmp_path, ALONE, quiet=True).choose(plan.grid.tunings())


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_values_that_would_not_be_finite_once_merged_are_never_written(plan_of, tmp_path, value):
    """1e30 is finite in every adapter's matrix; the product of two such matrices is not."""
    plan = plan_of("lora")
    (config,) = plan.grid.tunings()
    model, _ = make_model(plan, config)
    values = model.values()
    for name in values:
        if ".lora_" in name:
            values[name] = torch.full_like(values[name], value)
    save_file(values, tmp_path / "best.safetensors")
    with pytest.raises(Diverged, match="training diverged"):
        export(plan, config, tmp_path / "best.safetensors", tmp_path / "out")
    assert not (tmp_path / "out" / "backbone").exists()


def test_pretrained_weights_that_are_not_finite_are_refused_by_name(store, tiny_esm, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_bytes((tiny_esm / "config.json").read_bytes())
    tensors = load_file(tiny_esm / "model.safetensors")
    name = next(each for each in tensors if "layer.1" in each and each.endswith("query.weight"))
    tensors[name][0] = math.nan
    save_file(tensors, weights / "model.safetensors", metadata={"format": "pt"})
    words = ["finetune", store.folder, "--collection", "genes", "--label", "label"]
    words += ["--backbone", "esm2-8m", "--weights", weights, "--method", "lora", "--device", "cpu"]
    done = CliRunner().invoke(cli.app, [*map(str, words), "-o", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert "esm2-8m holds values that are not finite" in done.stderr
    assert "query.weight" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
