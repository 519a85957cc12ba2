"""Training from features that are read again each epoch, and on recipes joined on one axis."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from embedstore import create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.documents import seal
from embedstore.errors import BadInput, MissingRecipe
from embedstore.loaders import JoinedRecipe, Loading, StreamedFeatures, load_features
from embedstore.records import Record, Records
from probe import cli, runs
from probe.baselines import run_baselines
from probe.grid import Grid
from probe.objective import Objective
from probe.plan import plan_run
from probe.predict import predict_collection
from probe.saved import load_probe, read_probe_info
from probe.stream import predict_rows
from probe.tasks import Task
from probe.training import Examples, TrainingConfig, train_head

TASK = Task(collection="genes", label="label", kind="regression")
JOINED = "one-hot-protein+one-hot-mrna"
NO_PROTEIN = "synthetic-3"  # as in conftest.py


def weights(trained):
    return torch.cat([value.flatten() for value in trained.head.state_dict().values()])


@pytest.fixture(scope="module")
def motif(tmp_path_factory):
    """A reader of one-hot mRNAs in several segments, their keys, and labels: every second mRNA
    begins with a motif."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGU"), rng.integers(5, 20))) for _ in range(90)]
    texts = [("ACGU" + text[4:]) if at % 2 else text for at, text in enumerate(texts)]
    store = create_store(tmp_path_factory.mktemp("motif") / "s")
    records = Records([Record(f"r{at}", text, "mrna") for at, text in enumerate(texts)],
                      pa.table({}), 0, [])  # fmt: skip
    config = BuildConfig(collection="c", segment_bytes=600, quiet=True)
    build(store, records, prepare(BackboneConfig(backbone="one-hot-mrna")), config)
    reader = store.recipe("one-hot-mrna")
    assert len(reader.segments) > 8
    targets = 5.0 + 2.0 * (np.arange(90) % 2) + np.linspace(0, 0.1, 90)
    return reader, store.collection("c").keys("mrna"), targets


def parts(targets):
    rows = np.arange(len(targets))
    train, validation = (Examples(part, targets[part]) for part in (rows[:60], rows[60:]))
    task = Task(collection="c", label="l", kind="regression")
    return train, validation, Objective.fit(task, (), train.targets)


def test_a_window_that_holds_everything_trains_the_same_head_bit_for_bit(motif):
    reader, keys, targets = motif
    config = TrainingConfig(batch_size=16, learning_rate=9e-4, epochs=3)
    streamed = StreamedFeatures(reader, keys, window_bytes=1 << 20)
    one, other = (
        train_head(features, *parts(targets), config)
        for features in (streamed, load_features(reader, keys))
    )
    assert torch.equal(weights(one), weights(other))
    assert one.curve == other.curve


def test_a_motif_is_learnt_through_small_windows(motif):
    reader, keys, targets = motif
    config = TrainingConfig(batch_size=16, learning_rate=9e-4, epochs=12)
    total = int(reader.lengths(keys).sum()) * 8
    features = StreamedFeatures(reader, keys, window_bytes=total // 6)
    trained, again = (train_head(features, *parts(targets), config) for _ in range(2))
    assert trained.validation_score > 0.7
    assert torch.equal(weights(trained), weights(again))


@pytest.mark.parametrize("kind", ["textcnn", "lstm"])
def test_predictions_do_not_depend_on_where_features_are(motif, monkeypatch, kind):
    monkeypatch.setattr("probe.batches.RUN_TOKENS", 64)
    reader, keys, targets = motif
    resident = load_features(reader, keys)
    *examples, objective = parts(targets)
    config = TrainingConfig(epochs=1)
    head = train_head(resident, *examples, objective, config, kind).head
    rows = np.random.default_rng(0).permutation(90)
    expected = predict_rows(head, resident, rows, objective)
    for window in (200, 1000, 1 << 20):
        streamed = StreamedFeatures(reader, keys, window_bytes=window)
        assert np.array_equal(predict_rows(head, streamed, rows, objective), expected)


@pytest.fixture(scope="module")
def plan(store):
    quick = Grid(batch_sizes=(16,), learning_rates=(9e-4,), epochs=2)
    return plan_run(store, TASK, ["one-hot-mrna", JOINED], quick)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, runs.run_grid(plan, folder)


def test_a_joined_backbone_is_one_of_a_run(finished, plan, store):
    folder, results = finished
    one = results["backbones"][JOINED]
    assert (one["view"], one["width"], one["align"]) == ("protein+mrna", 24, "codon")
    assert one["recipes"] == [
        store.find_recipe(name).name for name in ("one-hot-protein", "one-hot-mrna")
    ]
    assert "recipes" not in results["backbones"]["one-hot-mrna"]
    run = json.loads((folder / "run.json").read_text())
    recipe = JoinedRecipe.from_json(run["joined"][JOINED])
    assert run["backbones"][JOINED] == recipe.name == one["recipe"]
    # by hand: one-hot rows have the root mean squares 1 / sqrt(20) and 1 / sqrt(4)
    assert recipe.factors == (4.0, 2.0)
    assert f"| {JOINED} | protein+mrna |" in (folder / "results.md").read_text()
    assert any(view["view"] == "protein+mrna" for view in results["audit"]["views"])


def test_results_say_where_features_were(finished):
    _, results = finished
    memory = results["backbones"][JOINED]["memory"]
    assert memory["inputs"] == 58 and memory["bytes"] == memory["tokens"] * 24 * 2
    assert not memory["streamed"] and "read into memory once" in memory["why"]


def test_the_audit_sees_joined_inputs(plan):
    """Rows that share a protein but no mRNA are different inputs of a join."""
    views = {view.view: view for view in plan.audit.views}
    assert views["protein+mrna"].distinct == views["mrna"].distinct


def test_a_joined_probe_predicts_what_was_judged(finished, plan, store):
    folder, _ = finished
    probe = load_probe(folder / "probes" / JOINED)
    assert probe.info.recipe == plan.readers[JOINED].recipe
    found = predict_collection(probe, store, store.collection("genes"))
    assert found.missing == [NO_PROTEIN] and len(found.ids) == 59
    own = dict(zip(found.ids, found.predicted.tolist(), strict=True))
    lines = (folder / "predictions" / f"{JOINED}.csv").read_text().splitlines()[1:]
    assert len(lines) == len(plan.split.test)
    for line in lines:
        id, _, predicted = line.split(",")
        assert own[id] == pytest.approx(float(predicted), rel=1e-5)


def test_a_joined_probe_needs_all_its_recipes(finished, store, tmp_path):
    shutil.copytree(str(store.folder), tmp_path / "s")
    probe = load_probe(finished[0] / "probes" / JOINED)
    shutil.rmtree(tmp_path / "s" / "recipes" / store.find_recipe("one-hot-protein").name)
    opened = open_store(tmp_path / "s")
    with pytest.raises(MissingRecipe):
        predict_collection(probe, opened, opened.collection("genes"))


def test_probes_of_one_recipe_and_of_joined_ones_have_one_format(finished):
    documents = {
        name: json.loads((finished[0] / "probes" / name / "probe.json").read_text())
        for name in ("one-hot-mrna", JOINED)
    }
    assert documents["one-hot-mrna"]["format"] == documents[JOINED]["format"] == 3
    assert documents["one-hot-mrna"]["recipe"]["backbone"] == "one-hot-mrna"
    assert set(documents[JOINED]["recipe"]) == {"recipes", "align", "factors"}


def test_a_damaged_joined_recipe_is_refused(finished, tmp_path):
    folder = tmp_path / "probe"
    shutil.copytree(finished[0] / "probes" / JOINED, folder)
    document = json.loads((folder / "probe.json").read_text())
    document["recipe"]["factors"] = [1.0]
    (folder / "probe.json").write_text(json.dumps(seal(document)))
    with pytest.raises(BadInput, match="damaged"):
        read_probe_info(folder)


def test_a_streamed_run_gives_its_results_and_says_so(plan, finished, tmp_path, caplog):
    """The memory holds less than a third of the features."""
    few = dataclasses.replace(plan, readers={JOINED: plan.readers[JOINED]},
                              keys={JOINED: plan.keys[JOINED]})  # fmt: skip
    whole = finished[1]["backbones"][JOINED]["memory"]["bytes"]
    loading = Loading(memory=whole / 3 / 1e9)
    caplog.set_level("INFO", "probe")
    results = runs.run_grid(few, tmp_path / "run", loading=loading)
    memory = results["backbones"][JOINED]["memory"]
    assert memory["streamed"] and memory["window_bytes"] == int(whole / 3) // 2
    said = [record.getMessage() for record in caplog.records]
    planned = next(at for at, line in enumerate(said) if "distinct embeddings" in line)
    assert "streamed, two windows" in said[planned]
    assert not any("learning rate" in line for line in said[:planned])  # before any training
    probe = load_probe(tmp_path / "run" / "probes" / JOINED)
    assert probe.info.metrics["test"]["spearman"] == results["backbones"][JOINED]["test_score"]


def test_a_join_that_holds_one_hot_letters_is_no_one_hot_baseline(plan, monkeypatch):
    made = []
    monkeypatch.setattr("probe.baselines.composition_baseline", lambda plan: "composition")
    monkeypatch.setattr("probe.baselines.one_hot_baseline", lambda *_: made.append(1) or "letters")
    only_joined = dataclasses.replace(plan, readers={JOINED: plan.readers[JOINED]})
    assert run_baselines(only_joined) == (["composition", "letters"], {})
    assert run_baselines(plan) == (["composition"], {})


def grid(*more, backbone, output="run"):
    options = ["--collection", "genes", "--label", "label", "--backbone", backbone, "-o", output]
    quick = ["--batch-size", "16", "--learning-rate", "9e-4", "--epochs", "1", "--threads", "1"]
    return CliRunner().invoke(cli.app, ["grid", "genes.store", *options, *quick, *more])


@pytest.fixture
def work(store, tmp_path, monkeypatch):
    shutil.copytree(str(store.folder), tmp_path / "genes.store")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("align", "streamed"), [("nucleotide", True), ("pooled", False)])
def test_backbones_are_joined_and_streamed_from_the_command_line(work, align, streamed):
    options = ["--align", align, "--memory", "0.0001", "--device", "auto"]
    done = grid(*options, backbone="one-hot-mrna+one-hot-protein")
    assert done.exit_code == 0, done.output
    (one,) = json.loads((work / "run" / "results.json").read_text())["backbones"].values()
    # a pooled record is one row, so all of them fit
    assert (one["align"], one["memory"]["streamed"]) == (align, streamed)
    assert "distinct embeddings" in done.stderr
    command = json.loads((work / "run" / "run.json").read_text())["command"]
    assert f"--align {align} --memory 0.0001 --device auto" in command
    done = CliRunner().invoke(cli.app, ["predict", "run", "genes.store", "--collection", "genes"])
    assert done.exit_code == 3 and len(done.stdout.splitlines()) == 60


@pytest.mark.parametrize(
    ("options", "backbone", "problem"),
    [
        (["--align", "codon"], "one-hot-mrna", "--align has nothing to align"),
        (["--memory", "0"], "one-hot-mrna", "--memory is 0 GB"),
        (["--memory", "0.0000001"], "one-hot-mrna", "cannot hold the longest embedding"),
        (["--device", "tpu"], "one-hot-mrna", "No device is called 'tpu'"),
        ([], "one-hot-mrna+one-hot-mrna", "names a recipe twice"),
        ([], "one-hot-mrna+", "Nothing"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(work, options, backbone, problem):
    done = grid(*options, backbone=backbone)
    assert done.exit_code == 1
    assert problem in done.stderr
    assert not (work / "run").exists()
