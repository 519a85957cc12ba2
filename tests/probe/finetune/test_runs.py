"""A fine-tuning run: a probing run's folder and rows, and files that other programs load."""

import csv
import dataclasses
import hashlib
import json
import math
import shlex
import shutil
import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.documents import seal
from embedstore.errors import BadInput, BadWeights
from embedstore.records import read_records
from embedstore.store import create_store
from probe import cli
from probe.finetune.plan import plan_finetuning, read_like
from probe.finetune.predict import own_backbone
from probe.finetune.runs import run_finetuning
from probe.grid import Grid
from probe.plan import plan_run
from probe.predict import predict_collection
from probe.report import words, write_report
from probe.runs import run_grid
from probe.saved import load_probe, read_probe_info
from probe.tasks import Task

from .conftest import TASK, grid_of

GRID = Grid(batch_sizes=(16,), learning_rates=(9e-4,), epochs=1)
NAMES = {"lora": "esm2-8m-lora", "full": "esm2-8m-full"}


@pytest.fixture(scope="module")
def probed(store, tmp_path_factory):
    """A probing run over the rows that have a protein."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    grid = dataclasses.replace(GRID, seed=3)
    run_grid(plan_run(store, TASK, ["one-hot-protein"], grid), folder)
    return folder


@pytest.fixture(scope="module")
def tuned(store, tiny_esm, probed, tmp_path_factory):
    """A run of each method, made by the command line: method -> (folder, results)."""
    made = {}
    for method in NAMES:
        folder = tmp_path_factory.mktemp(method) / "run"
        words = ["finetune", store.folder, "--like", probed, "--backbone", "esm2-8m"]
        words += ["--weights", tiny_esm, "--method", method, "--rank", "2,4", "--alpha", "0.5x"]
        words += ["--epochs", "1", "--batch-size", "16", "--head-lr", "9e-4", "--device", "cpu"]
        words += ["--backbone-lr", "1e-3", "--threads", "1", "--json", "-o", folder]
        done = CliRunner().invoke(cli.app, [str(each) for each in words])
        assert done.exit_code == 0, done.output
        made[method] = folder, json.loads(done.stdout)
    return made


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written(folder, method):
    return read_csv(folder / "predictions" / f"{NAMES[method]}.csv")


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


@pytest.mark.parametrize("method", NAMES)
def test_a_run_has_the_layout_of_a_probing_run_and_the_model_beside_the_head(tuned, method):
    folder, results = tuned[method]
    name = NAMES[method]
    expected = {"run.json", "split.json", "results.json", "results.md", "report.html"}
    expected |= {"test_groups.csv", f"predictions/{name}.csv"}
    expected |= {f"baselines/{each}.csv" for each in results["baselines"]}
    own = ["probe.json", "head.safetensors", "backbone/config.json", "backbone/model.safetensors"]
    if method == "lora":
        own += ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    assert files(folder) == expected | {f"probes/{name}/{each}" for each in own}
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    assert json.loads((folder / "results.json").read_text()) == seal(results)


@pytest.mark.parametrize("method", NAMES)
def test_results_have_a_probing_run_s_fields_and_those_of_training(tuned, probed, method):
    _, results = tuned[method]
    entry = results["backbones"][NAMES[method]]
    grid_entry = json.loads((probed / "results.json").read_text())["backbones"]["one-hot-protein"]
    assert grid_entry.keys() - entry.keys() == {"memory", "shuffled_labels_test_score"}
    assert entry["method"] == method
    assert entry["peak_bytes"] > 10_000_000 and entry["seconds"] > 0
    head = sum(math.prod(shape) for shape in [(640, 16), (640,), (100, 640, 12), (301,), (301,)])
    head += 300 - 301  # three biases of a hundred, and a linear layer of 300 and one
    assert entry["parameters"] == head
    tried = entry["configurations"]
    if method == "lora":
        assert [(one["rank"], one["alpha"]) for one in tried] == [(2, 1.0), (4, 2.0)]
        # two layers of four 16 x 16 matrices, each with (16 + 16) r numbers
        assert [one["parameters_trained"] - head for one in tried] == [
            2 * 4 * 32 * 2,
            2 * 4 * 32 * 4,
        ]
    else:
        assert [(one["rank"], one["alpha"]) for one in tried] == [(None, None)]
        assert tried[0]["parameters_trained"] > head + 2 * 4 * 16 * 16
    assert {one["learning_rate"] for one in tried} == {9e-4}
    assert {one["backbone_learning_rate"] for one in tried} == {1e-3}
    assert entry["validation_score"] == max(one["validation_score"] for one in tried)
    low, high = results["comparisons"]["intervals"][NAMES[method]]
    assert low <= entry["test_score"] <= high
    assert any(pair["first"] == NAMES[method] for pair in results["comparisons"]["pairs"])


def test_the_run_says_what_was_trained_and_from_what(tuned, base):
    run = json.loads((tuned["lora"][0] / "run.json").read_text())
    assert run["method"] == "lora"
    assert "attention.self.query" in run["targets"]
    assert run["base"] == {"backbone": "esm2-8m", "weights": base.recipe.weights}
    full = json.loads((tuned["full"][0] / "run.json").read_text())
    assert "targets" not in full
    assert "fully fine-tuned" in (tuned["full"][0] / "results.md").read_text()


def test_the_command_in_the_run_asks_for_the_same_again(tuned):
    folder, results = tuned["lora"]
    command = json.loads((folder / "run.json").read_text())["command"]
    program, *words = shlex.split(command)
    assert program == "probe" and words[:1] == ["finetune"]
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == results  # complete: read, not computed again
    assert "is complete" in done.stderr


def test_a_report_shows_the_methods_side_by_side(tuned, probed, tmp_path):
    document = write_report(
        [probed, *(folder for folder, _ in tuned.values())], tmp_path / "report.html"
    )
    assert len(document["runs"]) == 3
    assert document["notes"] == []  # nothing stands in the way of paired comparisons
    text = (tmp_path / "report.md").read_text()
    row, *ways = (line for line in text.splitlines() if line.startswith("| esm2-8m |"))
    assert "| backbone | one-hot letters | TextCNN probe | LoRA | full fine-tuning |" in text
    assert row.count(" trained") == 3
    entries = [results["backbones"][f"esm2-8m-{name}"] for name, (_, results) in tuned.items()]
    assert [way.split(" | ")[1] for way in ways] == ["one-hot letters", "LoRA", "full fine-tuning"]
    for way, entry in zip(ways[1:], entries, strict=True):
        assert words.bytes_text(entry["peak_bytes"]) in way
    assert "p (Holm)" in text
    (table,) = document["table2"]
    (cells,) = (row["cells"] for row in table["rows"] if row["name"] == "esm2-8m")
    assert cells[1] is None  # nobody probed this backbone
    assert [cell["against"] for cell in (cells[0], *cells[2:])] == ["LoRA", None, "LoRA"]
    assert f"{cells[0]['compared']['difference']:+.3f}" in ways[0]


def test_the_letters_of_table_2_are_the_best_on_validation_of_all_runs(tuned, probed, tmp_path):
    rival = tmp_path / "run-weak"
    shutil.copytree(tuned["lora"][0], rival)
    results = json.loads((rival / "results.json").read_text())
    results["baselines"]["one-hot-protein"] = results["baselines"].get("one-hot-protein", {
        "chosen": {}, "test_score": 0.0
    }) | {"validation_score": -1.0}  # fmt: skip
    (rival / "results.json").write_text(json.dumps(seal(results)))
    document = write_report([probed, rival], tmp_path / "report.html")
    (cells,) = (row["cells"] for row in document["table2"][0]["rows"] if row["name"] == "esm2-8m")
    own = json.loads((probed / "results.json").read_text())
    assert cells[0]["score"] == own["backbones"]["one-hot-protein"]["test_score"]


@pytest.mark.parametrize("method", NAMES)
def test_like_takes_rows_split_seed_and_head(tuned, probed, method):
    run, other = (
        json.loads((folder / "run.json").read_text()) for folder in (tuned[method][0], probed)
    )
    assert run["split"] == other["split"] and run["task"] == other["task"]
    assert run["grid"]["seed"] == other["grid"]["seed"] == 3
    assert (tuned[method][0] / "split.json").read_text() == (probed / "split.json").read_text()
    assert run["like"] == {"split": other["split"]["digest"], "rows": other["rows"]["digest"]}
    theirs = read_csv(probed / "predictions" / "one-hot-protein.csv")
    mine = written(tuned[method][0], method)
    assert [(row["id"], row["true"]) for row in mine] == [
        (row["id"], row["true"]) for row in theirs
    ]


def test_like_takes_the_choice_for_the_same_backbone_alone(probed, tmp_path):
    assert read_like(probed, "esm2-8m").chosen == {}
    chosen = read_like(probed, "one-hot-protein").chosen
    assert chosen.keys() == {"batch_size", "learning_rate"}
    with pytest.raises(BadInput, match="is no run"):
        read_like(tmp_path, "esm2-8m")


def test_what_contradicts_like_is_refused(store, base, probed, tmp_path):
    words = ["finetune", str(store.folder), "--like", str(probed), "--backbone", "codon-mini"]
    words += ["--method", "full", "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(cli.app, [*words, "--label", "expression"])
    assert done.exit_code == 1 and "--label expression is not what" in done.output
    damaged = tmp_path / "damaged"
    shutil.copytree(probed, damaged)
    split = json.loads((damaged / "split.json").read_text())
    split["test"].append(split["train"].pop())
    (damaged / "split.json").write_text(json.dumps(seal(split)))
    with pytest.raises(BadInput, match="another digest"):
        plan_finetuning(store, TASK, base, grid_of(seed=3), like=damaged)
    (damaged / "split.json").write_text((probed / "split.json").read_text())
    table = (damaged / "predictions/one-hot-protein.csv").read_text().splitlines()
    id, true, predicted = table[1].split(",")
    table[1] = f"{id},{float(true) + 1},{predicted}"
    (damaged / "predictions/one-hot-protein.csv").write_text("\n".join(table))
    with pytest.raises(BadInput, match="The label of "):
        plan_finetuning(store, TASK, base, grid_of(seed=3), like=damaged)
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_head_that_no_gradient_passes_is_no_run_to_be_like(probed, tmp_path):
    folder = tmp_path / "ridge"
    shutil.copytree(probed, folder)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(seal(run | {"head": "ridge"})))
    with pytest.raises(BadInput, match="has a ridge head, which cannot be trained"):
        read_like(folder, "esm2-8m")


def test_classes_that_changed_since_the_other_run_are_refused(store, base, tmp_path):
    task = Task(collection="genes", label="side", kind="classification")
    run_grid(plan_run(store, task, ["one-hot-protein"], GRID), tmp_path / "run")
    plan_finetuning(store, task, base, grid_of(), like=tmp_path / "run")
    path = tmp_path / "run" / "predictions" / "one-hot-protein.csv"
    head, first, *others = path.read_text().splitlines()
    id, true, predicted = first.split(",")
    path.write_text("\n".join([head, f"{id},other,{predicted}", *others]))
    with pytest.raises(BadInput, match=f"The label of {id} is {true}, and other in"):
        plan_finetuning(store, task, base, grid_of(), like=tmp_path / "run")


def test_rows_that_the_backbone_cannot_read_are_never_dropped_in_silence(store, tiny_esm, tmp_path):
    folder = tmp_path / "wide"  # one row more: the one without a protein
    run_grid(plan_run(store, TASK, ["one-hot-mrna"], GRID), folder)
    base = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu"))
    with pytest.raises(BadInput, match=r"1 of the 59 rows .* cannot be read by this backbone"):
        plan_finetuning(store, TASK, base, grid_of(), like=folder)


def test_long_input_is_cut_left_out_or_refused_never_read_in_windows(store, tiny_esm):
    def plan(**options):
        config = BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu", **options)
        return plan_finetuning(store, TASK, prepare(config), grid_of())

    whole = plan()
    cut = plan(long="truncate", max_tokens=50)
    assert max(item.cost for item in cut.items.values()) == 50
    assert cut.split.ids == whole.split.ids
    with pytest.raises(BadInput, match="--long window cannot be"):
        plan(long="window", max_tokens=50)
    with pytest.raises(ValueError, match="longer than the 48 tokens"):
        plan(max_tokens=50)
    longest = max(item.cost for item in whole.items.values())
    fewer = plan(long="skip", max_tokens=longest - 1)
    assert fewer.dropped["too long for esm2-8m-lora"] == len(whole.rows) - len(fewer.rows) > 0


def test_a_dtype_without_room_for_gradients_is_refused(store, tiny_esm):
    config = BackboneConfig(
        backbone="esm2-8m", weights=tiny_esm, device="cpu", compute_dtype="float16"
    )
    with pytest.raises(BadInput, match="do not fit float16"):
        plan_finetuning(store, TASK, prepare(config), grid_of())


def test_a_head_that_no_gradient_passes_is_refused(store, base):
    with pytest.raises(BadInput, match="A ridge head for a regression cannot be trained"):
        plan_finetuning(store, TASK, base, grid_of(), "ridge")


def test_a_backbone_without_weights_cannot_be_trained(store):
    letters = prepare(BackboneConfig(backbone="one-hot-protein"))
    with pytest.raises(BadInput, match="no weights to train"):
        plan_finetuning(store, TASK, letters, grid_of())


@pytest.mark.parametrize("method", NAMES)
def test_a_reloaded_probe_predicts_what_was_judged(tuned, store, method):
    folder, results = tuned[method]
    probe = load_probe(folder / "probes" / NAMES[method])
    found = predict_collection(probe, store, store.collection("genes"), "cpu")
    answers = dict(zip(found.ids, found.predicted.tolist(), strict=True))
    rows = written(folder, method)
    for row in rows:
        assert answers[row["id"]] == pytest.approx(float(row["predicted"]), rel=1e-5, abs=1e-6)
    assert found.missing == ["synthetic-3"]  # has no protein
    assert len(found.ids) == 59  # the one without a label too
    true, predicted = (
        np.array([float(row[each]) for row in rows]) for each in ("true", "predicted")
    )
    score = probe.info.objective.score(predicted, true)
    assert score == results["backbones"][NAMES[method]]["test_score"]
    assert probe.info.finetuned["method"] == method


def test_the_command_line_predicts_with_a_fine_tuned_probe(tuned, store):
    folder, _ = tuned["lora"]
    words = ["predict", str(folder), str(store.folder), "--collection", "genes", "--device", "cpu"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 3  # one record has no protein
    assert len(done.stdout.splitlines()) == 60


def test_changed_weights_beside_a_probe_are_refused(tuned, store, tmp_path):
    shutil.copytree(tuned["full"][0] / "probes" / NAMES["full"], tmp_path / "probe")
    (weights,) = (tmp_path / "probe" / "backbone").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # of the last tensor
    weights.write_bytes(content)
    probe = load_probe(tmp_path / "probe")
    with pytest.raises(BadWeights, match="beside the probe"):
        predict_collection(probe, store, store.collection("genes"), "cpu")


def test_a_probe_whose_recipe_was_digested_as_before_is_used_under_its_name(tuned, tmp_path):
    """Before, the digest took the whole config: its text, then the digest of each file."""
    shutil.copytree(tuned["full"][0] / "probes" / NAMES["full"], tmp_path / "probe")
    backbone = tmp_path / "probe" / "backbone"
    config = json.loads((backbone / "config.json").read_text())
    (weights,) = backbone.glob("*.safetensors")
    said = [json.dumps(config, sort_keys=True, separators=(",", ":"))]
    said.append(hashlib.sha256(weights.read_bytes()).hexdigest())
    before = f"sha256:{hashlib.sha256(chr(10).join(said).encode()).hexdigest()}"
    recipe = dataclasses.replace(load_probe(tmp_path / "probe").info.recipe, weights=before)
    prepared = own_backbone(recipe, backbone, "cpu")
    assert prepared.recipe == recipe
    other = dataclasses.replace(recipe, weights=f"sha256:{'0' * 64}")
    with pytest.raises(BadWeights, match="beside the probe"):
        own_backbone(other, backbone, "cpu")


def states_of(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]


def test_peft_loads_the_adapter_on_the_pretrained_model(tuned, tiny_esm):
    """transformers and peft alone give the rows that the merged backbone gives."""
    from peft import PeftModel
    from transformers import EsmModel

    folder = tuned["lora"][0] / "probes" / NAMES["lora"]
    best = tuned["lora"][1]["backbones"][NAMES["lora"]]["chosen"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
        base = EsmModel.from_pretrained(tiny_esm, add_pooling_layer=False)
        model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    adapter = model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha) == (best["rank"], best["alpha"])
    probe = load_probe(folder)
    own = prepare(
        BackboneConfig(
            backbone="esm2-8m", weights=folder / "backbone", device="cpu", store_dtype="float32"
        )
    ).load()
    text = "MKTAYIAKQRWC"
    rows = own.embed([text])
    tokens = own.tokenize([text]).ids[None]
    theirs = states_of(model, tokens)[1:-1].numpy()
    np.testing.assert_allclose(rows.tokens, theirs, rtol=1e-4, atol=1e-5)
    lengths = np.array([len(text)])
    assert probe.predict(theirs, lengths) == pytest.approx(
        probe.predict(rows.tokens, lengths), rel=1e-4, abs=1e-5
    )
    plain = prepare(BackboneConfig(backbone="esm2-8m", weights=tiny_esm, device="cpu")).load()
    assert not np.allclose(plain.embed([text]).tokens, rows.tokens, atol=1e-3)  # it did learn


@pytest.mark.parametrize("method", NAMES)
def test_transformers_loads_the_exported_backbone(tuned, method):
    from transformers import EsmModel

    folder = tuned[method][0] / "probes" / NAMES[method] / "backbone"
    model, report = EsmModel.from_pretrained(
        folder, add_pooling_layer=False, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    own = prepare(
        BackboneConfig(backbone="esm2-8m", weights=folder, device="cpu", store_dtype="float32")
    ).load()
    tokens = own.tokenize(["MKTAYIAKQRWC"]).ids[None]
    rows = own.embed(["MKTAYIAKQRWC"]).tokens
    np.testing.assert_allclose(states_of(model.eval(), tokens)[1:-1], rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", NAMES)
def test_a_store_can_be_built_with_the_fine_tuned_backbone(
    tuned, method, genes_csv, base, tmp_path
):
    """Its digest is in the recipe, and the probe then reads the store."""
    folder = tuned[method][0] / "probes" / NAMES[method]
    prepared = prepare(
        BackboneConfig(
            backbone="esm2-8m", weights=folder / "backbone", device="cpu", store_dtype="float32"
        )
    )
    assert prepared.recipe == read_probe_info(folder).recipe
    assert prepared.recipe.weights != base.recipe.weights
    store = create_store(tmp_path / "store")
    records = read_records(genes_csv, molecule="mrna")
    build(store, records, prepared, BuildConfig(collection="genes", quiet=True))
    live = predict_collection(load_probe(folder), store, store.collection("genes"), "cpu")
    shutil.copytree(folder, tmp_path / "probe")
    shutil.rmtree(tmp_path / "probe" / "backbone")  # not needed: all is stored
    (tmp_path / "probe" / "backbone").mkdir()
    rows = {row["id"]: float(row["predicted"]) for row in written(tuned[method][0], method)}
    said = dict(zip(live.ids, live.predicted.tolist(), strict=True))
    assert all(said[id] == pytest.approx(value, rel=1e-5, abs=1e-6) for id, value in rows.items())


def test_every_seed_of_the_choice_is_judged_and_saved(short, plan_of, tmp_path):
    rates = (1e-5, 9e-4)
    plan = plan_of("full", store=short, seeds=2, epochs=1, learning_rates=rates)
    results = run_finetuning(plan, tmp_path / "run", quiet=True)
    entry = results["backbones"][NAMES["full"]]
    assert [each["seed"] for each in entry["seeds"]] == [0, 1]
    means = [
        np.mean([one["validation_score"] for one in entry["configurations"][at : at + 2]])
        for at in (0, 2)
    ]
    assert entry["validation_score"] == pytest.approx(max(means))
    assert entry["chosen"]["learning_rate"] == rates[int(np.argmax(means))]
    scores = [each["test_score"] for each in entry["seeds"]]
    assert entry["test_score"] == pytest.approx(np.mean(scores))
    rows = written(tmp_path / "run", "full")
    assert [*rows[0]] == ["id", "true", "predicted_0", "predicted_1"]
    for number, score in enumerate(scores):
        predicted = column(rows, f"predicted_{number}")
        assert plan.objective.score(predicted, column(rows, "true")) == score
    probes = tmp_path / "run" / "probes"
    saved = [load_probe(probes / f"{NAMES['full']}{more}") for more in ("", "-seed-1")]
    assert [probe.info.training.seed for probe in saved] == [0, 1]
    assert len({probe.info.recipe.name for probe in saved}) == 2


def test_test_labels_change_nothing_but_the_judgement(short, plan_of, tmp_path):
    made = []
    for number in range(2):
        plan = plan_of("full", store=short, epochs=1)
        if number:
            targets = plan.targets.copy()
            targets[plan.split.test] = targets[plan.split.test][::-1]
            plan = dataclasses.replace(plan, targets=targets)
        folder = tmp_path / f"run-{number}"
        results = run_finetuning(plan, folder, quiet=True)
        weights = folder / "probes" / NAMES["full"] / "backbone" / "model.safetensors"
        made.append((weights.read_bytes(), results["backbones"][NAMES["full"]]["test_score"]))
    assert made[0][0] == made[1][0]
    assert made[0][1] != made[1][1]
