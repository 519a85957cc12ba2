"""Training that diverged: never chosen, never saved, never served; the rest of a run is kept."""

import csv
import dataclasses
import io
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from embedstore.documents import seal
from embedstore.errors import BadInput, Diverged, NotFinite
from embedstore.loaders import Features
from embedstore.store import Recipe
from probe import cli, halving, runs
from probe.bank import Head
from probe.divergence import finite_rows, settings_text
from probe.grid import search
from probe.heads import make_head
from probe.objective import Objective
from probe.predict import Predictions, predict_collection
from probe.saved import _digest, load_probe, save_probe
from probe.stream import Stream
from probe.tasks import Task
from probe.training import Examples, LinearConfig, TrainingConfig, train_heads

SOUND = TrainingConfig(batch_size=8, learning_rate=3e-4, epochs=2)
LOST = dataclasses.replace(SOUND, learning_rate=1e6)
RECIPE = Recipe(backbone="one-hot-mrna", view="mrna", width=6, weights=None)


def call(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def grid(*more, label="label", backbone="one-hot-mrna", rates="1e6", output="run"):
    words = ["--collection", "genes", "--label", label, "--backbone", backbone, "-o", output]
    words += ["--batch-size", 16, "--learning-rate", rates, "--epochs", 2, "--threads", 1]
    return call("grid", "genes.store", *words, *more)


@pytest.fixture
def work(store, tmp_path, monkeypatch):
    """A working folder with genes.store in it."""
    shutil.copytree(store.folder, tmp_path / "genes.store")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data_of(kind):
    """Features, train, validation and objective of a task of some kind; forty sequences."""
    rng = np.random.default_rng(0)
    lengths = np.full(40, 9)
    tokens = rng.normal(size=(360, 6)).astype(np.float32)
    features = Features(tokens, np.cumsum(lengths) - lengths, lengths, np.arange(40))
    classes: tuple[str, ...] = ()
    targets = tokens.reshape(40, 9, 6)[:, :, 0].max(axis=1).astype(np.float64)
    task = Task(collection="c", label="y", kind="regression")
    if kind == "classification":
        task = dataclasses.replace(task, kind="classification")
        classes, targets = ("a", "b"), (targets > np.median(targets)).astype(np.int64)
    elif kind == "several":
        task = dataclasses.replace(task, label="y,z")
        targets = np.stack([targets, -targets], 1)
    elif kind in ("per-position", "by-token"):
        task = dataclasses.replace(task, kind="per-position")
        targets = tokens.reshape(40, 9, 6)[:, :5, 0].astype(np.float64)
    objective = Objective.fit(task, classes, targets[:28], by_token=kind == "by-token")
    parts = [Examples(rows, targets[rows]) for rows in (np.arange(28), np.arange(28, 40))]
    return features, *parts, objective


@pytest.mark.parametrize("head", ["textcnn", "lstm"])
@pytest.mark.parametrize("kind", ["regression", "classification", "several", "per-position"])
def test_a_configuration_that_diverges_loses_and_harms_no_other(kind, head):
    data = data_of(kind)
    # gates are never larger than 1, so an LSTM takes more
    lost = LOST if head == "textcnn" else dataclasses.replace(LOST, learning_rate=1e30)
    found = search(*data, [lost, SOUND], head)
    assert found.best.config == SOUND
    assert [one.diverged for one in found.tried] == [True, False]
    # of classes too, where argmax takes nan for the largest and some rows would come out right
    assert math.isnan(found.tried[0].validation_score)
    (alone,) = train_heads(*data, [SOUND], head)
    np.testing.assert_allclose(
        [epoch.train_loss for epoch in found.best.curve],
        [epoch.train_loss for epoch in alone.curve],
        rtol=1e-4,  # products of another shape round elsewhere
    )


@pytest.mark.parametrize("rule", ["full", "halving"])
@pytest.mark.parametrize(
    ("kind", "head"),
    [("regression", "textcnn"), ("classification", "textcnn"), ("by-token", "textcnn-position")],
)
def test_where_all_diverge_the_error_names_every_learning_rate(kind, head, rule):
    configs = [LOST, dataclasses.replace(LOST, learning_rate=1e7)]
    with pytest.raises(Diverged, match=r"training diverged \(learning rate 1e\+06 or 1e\+07, "):
        search(*data_of(kind), configs, head, rule)


def test_one_seed_that_diverges_takes_its_configuration_out(monkeypatch):
    step = Stream._one_epoch
    seeds = [dataclasses.replace(SOUND, seed=seed, learning_rate=9e-4) for seed in (0, 1)]
    others = [dataclasses.replace(SOUND, seed=seed, learning_rate=1e-5) for seed in (0, 1)]

    def spoil(stream, live):
        losses = step(stream, live)
        for number in live:
            course = stream.courses[number]
            if course.config == seeds[1]:
                with torch.no_grad():
                    course.head.fc.weight[0, 0] = math.inf
        return losses

    monkeypatch.setattr(Stream, "_one_epoch", spoil)
    configs = [seeds[0], others[0], seeds[1], others[1]]
    found = search(*data_of("regression"), configs)
    assert [one.config for one in found.seeds] == others
    assert [one.config for one in found.tried if one.diverged] == [seeds[1]]


def test_halving_lets_nothing_that_diverged_go_on(monkeypatch):
    monkeypatch.setattr(Objective, "score", lambda *_: math.nan)  # undefined, but finite
    configs = [dataclasses.replace(one, epochs=9) for one in (LOST, SOUND)]
    lost, kept = halving.halve(*data_of("regression"), configs)
    assert (lost.diverged, kept.diverged) == (True, False)
    assert (len(lost.curve), len(kept.curve)) == (1, 9)


def test_a_head_that_was_good_before_it_broke_is_kept_as_it_was(monkeypatch):
    step, epochs = Stream._one_epoch, iter(range(9))

    def spoil(stream, live):
        losses = step(stream, live)
        return [math.nan] if next(epochs) == 1 else losses

    monkeypatch.setattr(Stream, "_one_epoch", spoil)
    (one,) = train_heads(*data_of("regression"), [dataclasses.replace(SOUND, epochs=5)])
    assert (one.best_epoch, len(one.curve), one.diverged) == (1, 2, False)


def test_an_undefined_score_is_no_divergence(monkeypatch):
    monkeypatch.setattr(Objective, "score", lambda *_: math.nan)
    assert not search(*data_of("regression"), [SOUND]).best.diverged


@pytest.mark.parametrize(
    ("kind", "head"), [("regression", "ridge"), ("classification", "logistic")]
)
def test_linear_heads_on_features_that_are_not_finite_diverge(kind, head):
    features, *rest = data_of(kind)
    means = features.tokens[:40].copy()
    means[3, 2] = np.inf
    rows = np.arange(40)
    bad = Features(means, rows, np.ones(40, np.int64), rows)
    with pytest.raises(Diverged, match=r"training diverged \(penalty 0.1\)"):
        search(bad, *rest, [LinearConfig(penalty=0.1)], head)


@pytest.mark.parametrize(("value", "words"), [(1e200, "too large"), (1e-200, "too little")])
def test_labels_without_a_spread_are_one_line(value, words):
    task = Task(collection="c", label="y", kind="regression")
    with pytest.raises(BadInput, match=words):
        Objective.fit(task, (), np.array([value, -value, 0.0]))


@pytest.mark.parametrize("rate", [math.inf, math.nan])
def test_a_learning_rate_is_finite(rate):
    with pytest.raises(ValueError, match="finite"):
        TrainingConfig(learning_rate=rate)


def test_a_run_on_which_everything_diverges_leaves_nothing(work):
    before = sorted(path.name for path in work.iterdir())
    done = grid()
    assert done.exit_code == 1
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("error:")]
    assert "one-hot-mrna: training diverged (learning rate 1e+06, batch size 16)" in line
    assert "Traceback" not in done.output
    assert sorted(path.name for path in work.iterdir()) == before
    assert grid(rates="9e-4").exit_code == 0  # the folder's name is free


@pytest.mark.parametrize("label", ["label", "side"])
def test_other_backbones_are_kept_and_the_gap_is_named_wherever_the_run_is(
    work, monkeypatch, label
):
    real = runs.search

    def spoil(features, *rest):
        configs = rest[3]
        if features.width == 4:  # the letters of mRNA
            rest = (*rest[:3], [dataclasses.replace(c, learning_rate=1e6) for c in configs])
        return real(features, *rest)

    monkeypatch.setattr(runs, "search", spoil)
    words = {"backbone": "one-hot-mrna,one-hot-protein", "rates": "9e-4", "label": label}
    for _ in range(2):  # made, then read
        done = grid(**words)
        assert done.exit_code == 1
        assert "| one-hot-mrna | mrna | diverged |" in done.stdout
        assert "error: one-hot-mrna: training diverged (learning rate 1e+06" in done.stderr
        assert "The other backbones are in 'run'." in done.stderr
    results = json.loads((work / "run" / "results.json").read_text())
    assert [*results["backbones"]] == ["one-hot-protein"]
    assert [*results["diverged"]] == ["one-hot-mrna"]
    assert [path.name for path in (work / "run" / "probes").iterdir()] == ["one-hot-protein"]
    assert call("predict", "run", "genes.store", "--collection", "genes").exit_code == 3  # gaps
    reported = call("report", "run", "-o", "page.html")
    assert reported.exit_code == 3
    assert "missing: run: one-hot-mrna (diverged)" in reported.stderr
    assert "one-hot-mrna (diverged)" in (work / "page.html").read_text()


def test_a_sweep_goes_on_and_lists_the_gaps(work):
    text = """
store: genes.store
backbones: [one-hot-mrna]
tasks: [{collection: genes, label: label}, {collection: genes, label: side}]
grid: {batch_sizes: [16], learning_rates: [1e6], epochs: 1}
"""
    (work / "sweep.yaml").write_text(text)
    done = call("sweep", "sweep.yaml", "-o", "out")
    assert done.exit_code == 1
    (work / "sweep.yaml").write_text(text.replace("[1e6]", "[1e6, 9e-4]"))
    done = call("sweep", "sweep.yaml", "-o", "out2")
    assert done.exit_code == 0, done.output  # a configuration that loses is no gap


def spoiled(folder, name, value=math.nan):
    """A saved probe as it was saved before: one value is not finite, and the digest fits."""
    tensors = load_file(folder / "head.safetensors")
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = value
    save_file(tensors, folder / "head.safetensors")
    document = json.loads((folder / "probe.json").read_text())
    document["weights_digest"] = _digest((folder / "head.safetensors").read_bytes())
    (folder / "probe.json").write_text(json.dumps(seal(document)))


def saved(folder, kind="textcnn", task="regression"):
    objective = data_of(task)[-1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        head = make_head(kind, 6, objective.outputs)
    if kind.startswith("textcnn"):
        head.proj.weight.data *= 100  # so that large tokens overflow
    linear = kind in ("ridge", "logistic")
    save_probe(
        folder, head, recipe=RECIPE, objective=objective, split_digest="ab" * 16, metrics={},
        training=LinearConfig(penalty=1.0) if linear else SOUND,
    )  # fmt: skip
    return head


@pytest.mark.parametrize("kind", ["textcnn", "lstm", "ridge"])
def test_a_head_that_is_not_finite_is_neither_saved_nor_loaded(tmp_path, kind):
    head: Head = saved(tmp_path / "probe", kind)
    for name in head.state_dict():
        shutil.copytree(tmp_path / "probe", tmp_path / name)
        spoiled(tmp_path / name, name, -math.inf)
        with pytest.raises(NotFinite, match=rf"head\.safetensors.*{name} is not finite"):
            load_probe(tmp_path / name)
    with torch.no_grad():
        head.fc.bias[0] = math.nan
    with pytest.raises(Diverged, match=r"training diverged \(.*fc\.bias of the head"):
        save_probe(
            tmp_path / "new", head, recipe=RECIPE, objective=data_of("regression")[-1],
            split_digest="ab" * 16, metrics={}, training=SOUND,
        )  # fmt: skip
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "scale", [{"std": math.inf}, {"std": 1e300}, {"mean": math.nan}, {"std": 0}, {"std": [1, 2]}]
)
def test_a_scale_that_gives_predictions_that_are_not_finite_is_damage(tmp_path, scale):
    saved(tmp_path / "probe")
    document = json.loads((tmp_path / "probe" / "probe.json").read_text())
    document["scale"] |= scale
    del document["checksum"]  # as it was before there was one
    (tmp_path / "probe" / "probe.json").write_text(json.dumps(document | {"format": 1}))
    with pytest.raises(BadInput, match=r"damaged.*(scale|no JSON)"):
        load_probe(tmp_path / "probe")


@pytest.mark.parametrize(
    ("kind", "task"), [("textcnn", "regression"), ("textcnn", "classification"),
                       ("textcnn", "several"), ("textcnn-position", "by-token")],
)  # fmt: skip
def test_a_sequence_without_a_finite_prediction_fails_alone(tmp_path, kind, task):
    saved(tmp_path / "probe", kind, task)
    probe = load_probe(tmp_path / "probe")
    tokens = np.ones((15, 6), np.float32)
    tokens[6] = 3e38  # finite in float32; products of it are not
    tokens[7] = -3e38
    lengths = np.array([5, 5, 5])
    found = probe.answer(tokens, lengths)
    assert found.finite.tolist() == [True, False, True]
    with pytest.raises(NotFinite, match="sequence 2 of 3"):
        probe.predict(tokens, lengths)
    sound = np.ones((10, 6), np.float32)
    # equal up to rounding: products of another shape
    expected = probe.answer(sound, np.array([5, 5])).predicted
    if task == "classification":
        assert found.predicted[[0, 2]].tolist() == expected.tolist()
    else:
        np.testing.assert_allclose(found.predicted[[0, 2]], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("columns", [(), ("a", "b")])
def test_a_table_of_no_predictions_is_its_header(columns):
    predicted = np.empty((0, 2)) if columns else np.empty(0)
    none = Predictions(
        ids=[], predicted=predicted, probabilities=None, missing=["x"], outputs=columns
    )
    header = ",".join(f"predicted_{name}" for name in columns) or "predicted"
    assert none.as_csv(()) == f"id,{header}\n"


def test_predictions_of_a_collection_name_the_records_without_one(work, store, monkeypatch):
    assert grid(rates="9e-4").exit_code == 0
    probe = load_probe(work / "run" / "probes" / "one-hot-mrna")
    real = type(probe).answer

    def spoil(self, tokens, lengths):
        found = real(self, tokens, lengths)
        found.finite[0] = False
        return found

    monkeypatch.setattr(type(probe), "answer", spoil)
    found = predict_collection(probe, store, store.collection("genes"))
    assert len(found.not_finite) >= 1
    assert not {*found.not_finite} & {*found.ids}
    assert len(found.ids) + len(found.missing) + len(found.not_finite) == 60
    done = call("predict", "run", "genes.store", "--collection", "genes")
    assert done.exit_code == 3
    assert f"{found.not_finite[0]}" in done.stderr and "finite" in done.stderr
    assert "nan" not in done.stdout
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == len(found.ids)


def test_rows_by_token_count_only_up_to_their_end():
    outputs = np.array([[1, 2, np.nan], [1, np.nan, np.nan], [1, 2, np.inf]])
    assert finite_rows(outputs, np.array([2, 2, 3])).tolist() == [True, False, False]
    assert finite_rows(outputs).tolist() == [False, False, False]


def test_settings_are_named_as_people_write_them():
    assert settings_text([LinearConfig(penalty=0.1)]) == "penalty 0.1"
    assert settings_text([LOST]) == "learning rate 1e+06, batch size 8"
