"""Every kind of head and task from the store to predictions: runs, saved probes, tables."""

import csv
import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from embedstore import create_store, open_store
from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.build import BuildConfig, build
from embedstore.errors import BadInput
from embedstore.records import read_records
from embedstore.synthetic import make_genes
from probe import cli
from probe.audit import mean_of_outputs
from probe.audited import audit_collection
from probe.baselines import run_baselines
from probe.grid import Grid
from probe.plan import plan_run
from probe.predict import predict_collection
from probe.predictions import read_predictions, write_predictions
from probe.runs import run_grid
from probe.saved import load_probe
from probe.tasks import Task

ROWS, SCORED = 48, 12
GRID = Grid(batch_sizes=(16,), learning_rates=(9e-4,), epochs=2)
NUMBERS = Task(collection="rna", label="one", kind="regression")
SEVERAL = dataclasses.replace(NUMBERS, label="one,two")
NAMES = Task(collection="rna", label="side", kind="classification")
LISTS = Task(collection="rna", label="track", kind="per-position")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """RNAs with two numbers, unequal classes, lists of one length and of several."""
    made = make_genes(ROWS, seed=3)
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("kinds")
    with (folder / "rna.jsonl").open("w") as file:
        for row, (id, sequence) in enumerate(zip(made.ids, made.sequences, strict=True)):
            track = [float(letter == "A") + 0.1 * rng.normal() for letter in sequence[:SCORED]]
            values = {
                "one": float(made.label[row]),
                "two": None if row == 5 else float(100 * made.label[row] + rng.normal()),
                "side": "rare" if row % 5 == 0 else "usual",
                "track": track,
                "ragged": track[: 3 + row % 9] if row else [None, track[1]],
            }
            file.write(json.dumps({"id": id, "sequence": sequence, **values}) + "\n")
    opened = create_store(folder / "rna.store")
    records = read_records(folder / "rna.jsonl", molecule="mrna")
    for backbone in ("one-hot-mrna", "one-hot-protein"):
        prepared = prepare(BackboneConfig(backbone=backbone))
        build(opened, records, prepared, BuildConfig(collection="rna", quiet=True))
    return opened


def plan_of(store, task, head, **options):
    grid = dataclasses.replace(GRID, **options)
    return plan_run(store, task, ["one-hot-mrna"], grid, head=head)


def test_lists_of_a_jsonl_file_come_into_the_collection(store):
    column = store.collection("rna").table.column("ragged")
    assert pa.types.is_list(column.type)
    assert column[0].as_py()[0] is None and len(column[0].as_py()) == 2


@pytest.mark.parametrize(
    ("task", "head", "seeds"),
    [
        (NUMBERS, "ridge", 3),
        (SEVERAL, "ridge", 1),
        (SEVERAL, "textcnn", 2),
        (NAMES, "logistic", 1),
        (dataclasses.replace(NAMES, balance=True, scored_by="balanced-accuracy"), "textcnn", 1),
        (dataclasses.replace(NAMES, balance=True, scored_by="macro-f1"), "logistic", 1),
        (LISTS, "textcnn", 1),
        (LISTS, "ridge", 1),
        (dataclasses.replace(LISTS, label="ragged"), "textcnn-position", 2),
    ],
)
def test_a_run_is_whole_whatever_the_head_and_the_labels(store, tmp_path, task, head, seeds):
    plan = plan_of(store, task, head, seeds=seeds)
    results = run_grid(plan, tmp_path / "run")
    one = results["backbones"]["one-hot-mrna"]
    linear = head in ("ridge", "logistic")
    assert len(one["seeds"]) == (1 if linear else seeds)
    assert (one["best_epoch"] is None) == linear == ("penalty" in one["chosen"])
    assert results["metric"] == task.metric
    assert head.removesuffix("-position") in (tmp_path / "run" / "results.md").read_text().lower()

    targets = plan.examples("test").targets
    predicted = read_predictions(tmp_path / "run/predictions/one-hot-mrna.csv", plan)
    stack = predicted[None] if predicted.ndim == targets.ndim else predicted
    scores = [plan.objective.score(each, targets) for each in stack]
    assert np.mean(scores) == pytest.approx(one["test_score"])
    low, high = results["comparisons"]["intervals"]["one-hot-mrna"]
    assert low - 1e-9 <= one["test_score"] <= high + 1e-9
    if len(task.labels) > 1:
        assert [*one["per_output"]] == ["one", "two"]
        assert np.mean([*one["per_output"].values()]) == pytest.approx(one["test_score"])
    else:
        assert "per_output" not in one

    # the saved probe gives the same, for the whole collection and from tokens
    probe = load_probe(tmp_path / "run/probes/one-hot-mrna")
    assert probe.info.objective.task == task
    found = predict_collection(probe, store, store.collection("rna"))
    place = {id: at for at, id in enumerate(found.ids)}
    test = [place[plan.split.ids[row]] for row in plan.split.test.tolist()]
    again = found.predicted[test]
    if plan.classes:
        again = np.array([plan.classes.index(name) for name in again])
    if again.ndim == 2:
        again = again[:, : targets.shape[1]]
    there = np.isfinite(stack[0])
    np.testing.assert_allclose(again[there], stack[0][there], rtol=1e-3, atol=1e-4)
    packed = plan.readers["one-hot-mrna"].batch(plan.keys["one-hot-mrna"][:3])
    answers = probe.answers(packed.tokens, packed.lengths)
    kind = str if plan.classes else float if targets.ndim == 1 else list
    assert [type(answer) for answer in answers] == [kind] * 3
    if head == "textcnn-position":
        assert [len(answer) for answer in answers] == packed.lengths.tolist()


@pytest.mark.parametrize("head", ["textcnn-position", "ridge"])
def test_joined_backbones_serve_these_heads_too(store, tmp_path, head):
    task = LISTS if head == "ridge" else dataclasses.replace(LISTS, label="ragged")
    joined = ["one-hot-mrna+one-hot-protein"]
    plan = plan_run(store, task, joined, GRID, head=head, align="nucleotide")
    results = run_grid(plan, tmp_path / "run")
    (name,) = results["backbones"]
    assert results["backbones"][name]["test_score"] is not None
    probe = load_probe(tmp_path / "run/probes" / name)
    found = predict_collection(probe, store, store.collection("rna"))
    assert found.predicted.shape[0] == len(found.ids) > 40
    if head == "textcnn-position":
        with pytest.raises(BadInput, match="no token for each position"):
            plan_run(store, task, joined, GRID, head=head, align="codon")


def test_predictions_of_positions_are_one_line_each(store, tmp_path):
    plan = plan_of(store, dataclasses.replace(LISTS, label="ragged"), "textcnn-position")
    test = plan.examples("test")
    write_predictions(tmp_path / "p.csv", plan, np.stack([test.targets, test.targets + 1]))
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "position", "true", "predicted_0", "predicted_1"]
    assert len(rows) == (~np.isnan(test.targets)).sum()
    first = [row for row in rows if row["id"] == plan.split.ids[test.rows[0]]]
    assert [int(row["position"]) for row in first] == list(range(len(first)))
    read = read_predictions(tmp_path / "p.csv", plan)
    np.testing.assert_array_equal(read, [test.targets, test.targets + 1])


def test_rows_that_lack_one_of_several_labels_are_dropped_and_counted(store):
    plan = plan_of(store, SEVERAL, "ridge")
    assert plan.targets.shape == (ROWS - 1, 2)
    assert (plan.dropped["no one"], plan.dropped["no two"]) == (0, 1)
    assert plan.task.unit == "one, two"


@pytest.mark.parametrize(
    ("task", "head", "backbone", "problem"),
    [
        (NUMBERS, "logistic", "one-hot-mrna", "names classes"),
        (NAMES, "ridge", "one-hot-mrna", "gives numbers"),
        (NUMBERS, "textcnn-position", "one-hot-mrna", "one label a row"),
        (LISTS, "textcnn-position", "one-hot-protein", "no token for each position"),
        (dataclasses.replace(LISTS, label="ragged"), "textcnn", "one-hot-mrna", "2 to 11 labels"),
        (dataclasses.replace(NUMBERS, label="track"), "textcnn", "one-hot-mrna", "a list of"),
        (dataclasses.replace(LISTS, label="one"), "textcnn", "one-hot-mrna", "one number a row"),
        (dataclasses.replace(NUMBERS, label="one,side"), "ridge", "one-hot-mrna", "go together"),
    ],
)
def test_heads_and_labels_that_do_not_fit_are_refused_in_a_sentence(
    store, task, head, backbone, problem
):
    with pytest.raises(BadInput, match=problem):
        plan_run(store, task, [backbone], GRID, head=head)


def test_a_linear_head_has_no_epochs_to_halve(store):
    with pytest.raises(BadInput, match="nothing to halve"):
        plan_run(store, NUMBERS, ["one-hot-mrna"], GRID, head="ridge", search="halving")


def test_a_composition_is_left_out_with_its_reason_where_labels_are_missing(store):
    found, skipped = run_baselines(plan_of(store, LISTS, "textcnn"))
    assert [one.name for one in found] == ["codon-composition-ridge"] and not skipped
    ragged = dataclasses.replace(LISTS, label="ragged")
    found, skipped = run_baselines(plan_of(store, ragged, "textcnn-position"))
    assert found == [] and "some positions have no label" in skipped["composition"]


def test_the_constant_of_positions_is_the_mean_of_each(store):
    plan = plan_of(store, LISTS, "textcnn")
    train = plan.examples("train").targets
    np.testing.assert_allclose(plan.objective.constant(train), train.mean(axis=0))
    assert plan.objective.outputs == SCORED
    shown = plan.objective.show(np.array([[1.0, np.nan], [2.0, 3.0]]))
    assert shown == [[1.0], [2.0, 3.0]]


def test_several_outputs_are_audited_by_the_mean_of_equal_scales(store):
    document = audit_collection(store.collection("rna"), SEVERAL)
    assert document["unit"] == "one, two, mean of standardised outputs"
    assert document["rows"] == ROWS - 1
    both = np.array([[0.0, 1000], [2, 3000], [4, 2000]])
    spread = np.sqrt(8 / 3), np.sqrt(2e6 / 3)
    np.testing.assert_allclose(
        mean_of_outputs(both), [-(2 / spread[0] + 1000 / spread[1]) / 2, 1000 / spread[1] / 2,
                                2 / spread[0] / 2]
    )  # fmt: skip


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


def test_lists_of_first_positions_are_asked_for_audited_and_predicted(store, tmp_path):
    options = ["--collection", "rna", "--label", "ragged"]
    for command in (["audit"], ["grid", "--backbone", "one-hot-mrna", "-o", tmp_path / "none"]):
        refused = call(command[0], store.folder, *options, *command[1:])
        assert refused.exit_code == 1 and "--kind per-position" in refused.output
    assert not (tmp_path / "none").exists()
    options += ["--kind", "per-position"]
    shown = call("audit", store.folder, *options)
    assert shown.exit_code == 0, shown.output
    assert "rna: ragged, mean over positions (per-position)" in shown.stdout
    run = tmp_path / "run"
    done = call("grid", store.folder, *options, "--backbone", "one-hot-mrna", "-o", run,
                "--head", "textcnn-position", "--batch-size", "16", "--learning-rate", "9e-4",
                "--epochs", "1", "--threads", "1")  # fmt: skip
    assert done.exit_code == 0, done.output
    done = call("predict", run, store.folder, "--collection", "rna")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == ["id", "position", "predicted"]
    letters = sum(map(len, store.collection("rna").table.column("sequence").to_pylist()))
    assert len(rows) == letters  # every position, labelled or not


def test_several_outputs_and_balance_are_options(store, tmp_path):
    shared = ["--collection", "rna", "--backbone", "one-hot-mrna"]
    done = call("grid", store.folder, *shared, "--label", "one,two", "--head", "ridge",
                "--metric", "pearson", "-o", tmp_path / "two")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "two/results.json").read_text())["metric"] == "pearson"
    done = call("predict", tmp_path / "two", store.folder, "--collection", "rna")
    header = done.stdout.splitlines()[0]
    assert header == "id,predicted_one,predicted_two"
    done = call("grid", store.folder, *shared, "--label", "side", "--head", "logistic",
                "--balance", "--metric", "balanced-accuracy", "-o", tmp_path / "side")  # fmt: skip
    assert done.exit_code == 0, done.output
    task = json.loads((tmp_path / "side/run.json").read_text())["task"]
    assert (task["balance"], task["metric"]) == (True, "balanced-accuracy")
    assert open_store(store.folder).collection("rna").labels  # the store is as it was
