"""Saved probes: the same predictions, bit for bit; damaged and foreign folders are refused."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from embedstore import Recipe
from embedstore.documents import seal
from embedstore.errors import BadInput, NewerFormat
from probe.heads import HEADS
from probe.lstm import LSTM
from probe.objective import Objective, Scale
from probe.probe_document import ProbeInfoDocument
from probe.saved import Probe, load_probe, read_probe_info, save_probe
from probe.tasks import Task
from probe.training import LinearConfig, TrainingConfig

RECIPE = Recipe(backbone="one-hot-mrna", view="mrna", width=4, weights=None)
REGRESSION = Objective(
    task=Task(collection="genes", label="halflife", kind="regression", transform="log2"),
    classes=(),
    scale=Scale(mean=3.25, std=0.7),
)
SEVERAL = Objective(
    task=Task(collection="genes", label="a,b", kind="regression", scored_by="pearson"),
    classes=(),
    scale=Scale(mean=(3.25, 100.0), std=(0.7, 20.0)),
)
LISTS = Objective(
    task=Task(collection="genes", label="track", kind="per-position"),
    classes=(),
    scale=Scale(mean=3.25, std=0.7),
    positions=5,
)
BY_TOKEN = dataclasses.replace(LISTS, by_token=True)
CLASSES = Objective(
    task=Task(collection="genes", label="side", kind="classification"),
    classes=("both", "high", "low"),
    scale=None,
)


def save(folder, objective=REGRESSION, kind="textcnn"):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if kind == "lstm":
            head = LSTM(4, objective.outputs, hidden=8).eval()
        elif kind in ("ridge", "logistic"):
            head = HEADS[kind](4, objective.outputs).eval()
            head.centre += 0.25
            head.spread *= 0.4
        else:
            head = HEADS[kind](4, objective.outputs, projection=8, channels=5).eval()
    save_probe(
        folder,
        head,
        recipe=RECIPE,
        objective=objective,
        split_digest="ab" * 16,
        metrics={"test": {objective.task.metric: None, "n": 225}},
        training=LinearConfig(penalty=0.1)
        if kind in ("ridge", "logistic")
        else TrainingConfig(seed=4),
    )
    return head


def sequences(dtype=np.float16):
    lengths = np.array([2, 9, 30])
    letters = np.random.default_rng(0).integers(0, 4, lengths.sum())
    return np.eye(4, dtype=dtype)[letters], lengths


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (REGRESSION, "textcnn"),
        (REGRESSION, "lstm"),
        (REGRESSION, "ridge"),
        (CLASSES, "textcnn"),
        (CLASSES, "lstm"),
        (CLASSES, "logistic"),
        (SEVERAL, "textcnn"),
        (SEVERAL, "ridge"),
        (LISTS, "textcnn"),
        (BY_TOKEN, "textcnn-position"),
    ],
)
def test_a_loaded_probe_predicts_bit_for_bit_what_was_saved(tmp_path, objective, kind):
    head = save(tmp_path / "probe", objective, kind)
    loaded = load_probe(tmp_path / "probe")
    assert loaded.info.head == {"kind": kind, **head.sizes}
    before, after = (Probe(loaded.info, head), loaded)
    assert loaded.info.objective == objective
    assert np.array_equal(before.predict(*sequences()), after.predict(*sequences()), equal_nan=(
        objective is not CLASSES))  # fmt: skip
    if objective is CLASSES:
        assert np.array_equal(before.probabilities(*sequences()), after.probabilities(*sequences()))


@pytest.mark.parametrize(
    ("objective", "kind", "shapes"),
    [
        (REGRESSION, "ridge", [(), (), ()]),
        (SEVERAL, "textcnn", [(2,)] * 3),
        (LISTS, "textcnn", [(5,)] * 3),
        (BY_TOKEN, "textcnn-position", [(2,), (9,), (30,)]),
    ],
)
def test_answers_are_a_number_or_as_many_as_there_are_outputs(tmp_path, objective, kind, shapes):
    save(tmp_path / "probe", objective, kind)
    answers = load_probe(tmp_path / "probe").answers(*sequences())
    assert [np.shape(answer) for answer in answers] == shapes
    json.dumps(answers, allow_nan=False)


def test_a_head_by_token_cannot_stand_for_another(tmp_path):
    save(tmp_path / "probe", BY_TOKEN, "textcnn-position")
    path = tmp_path / "probe" / "probe.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(seal(document | {"by_token": False, "positions": 1})))
    with pytest.raises(BadInput, match="contradicts itself"):
        load_probe(tmp_path / "probe")


def test_a_regression_is_predicted_in_the_unit_of_its_task(tmp_path):
    head = save(tmp_path / "probe")
    tokens, lengths = sequences()
    predicted = load_probe(tmp_path / "probe").predict(tokens, lengths)
    with torch.no_grad():
        raw = head(torch.from_numpy(tokens).float(), torch.from_numpy(lengths))[:, 0]
    assert predicted.dtype == np.float64
    np.testing.assert_allclose(predicted, raw.double().numpy() * 0.7 + 3.25)


def test_a_classification_is_predicted_by_name_with_probabilities(tmp_path):
    save(tmp_path / "probe", CLASSES)
    probe = load_probe(tmp_path / "probe")
    shares = probe.probabilities(*sequences())
    assert shares.shape == (3, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    names = [CLASSES.classes[number] for number in shares.argmax(axis=1)]
    assert probe.predict(*sequences()).tolist() == names


def test_a_regression_has_no_probabilities(tmp_path):
    save(tmp_path / "probe")
    with pytest.raises(BadInput, match="no class probabilities"):
        load_probe(tmp_path / "probe").probabilities(*sequences())


def test_half_and_single_precision_tokens_of_equal_value_are_one(tmp_path):
    save(tmp_path / "probe")
    probe = load_probe(tmp_path / "probe")
    assert np.array_equal(
        probe.predict(*sequences(np.float16)), probe.predict(*sequences(np.float32))
    )


def test_no_sequences_give_no_predictions(tmp_path):
    save(tmp_path / "probe")
    none = np.empty((0, 4), np.float16), np.empty(0, np.int64)
    assert load_probe(tmp_path / "probe").predict(*none).shape == (0,)


def test_the_information_comes_back_whole(tmp_path):
    save(tmp_path / "probe")
    info = read_probe_info(tmp_path / "probe")
    assert (info.recipe, info.objective, info.training) == (
        RECIPE,
        REGRESSION,
        TrainingConfig(seed=4),
    )
    assert info.head["kind"] == "textcnn"
    assert info.metrics == {"test": {"spearman": None, "n": 225}}
    document = json.loads((tmp_path / "probe" / "probe.json").read_text())
    assert document == seal({**info.as_json(), "kind": "probe", "format": 3})
    assert (document["view"], document["recipe_name"]) == ("mrna", RECIPE.name)


def test_reading_the_information_imports_neither_torch_nor_scipy(tmp_path):
    save(tmp_path / "probe")
    code = (
        "import sys; from pathlib import Path; from probe.saved import read_probe_info; "
        "read_probe_info(Path(sys.argv[1])); "
        "print([name for name in ('torch', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "probe")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_loading_draws_nothing_from_the_global_generator(tmp_path):
    save(tmp_path / "probe")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_probe(tmp_path / "probe")
    assert torch.equal(torch.rand(2), expected)


def test_saving_never_replaces_a_probe(tmp_path):
    save(tmp_path / "probe")
    before = (tmp_path / "probe" / "probe.json").read_bytes()
    with pytest.raises(BadInput, match="exists"):
        save(tmp_path / "probe", CLASSES)
    assert (tmp_path / "probe" / "probe.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]


@pytest.mark.parametrize(
    ("tokens", "lengths", "problem"),
    [
        (np.zeros((4, 5), np.float16), [4], r"reads \(T, 4\)"),
        (np.zeros(4, np.float16), [4], r"reads \(T, 4\)"),
        (np.zeros((4, 4), np.float16), [3], "add up to 3"),
        (np.zeros((4, 4), np.float16), [5, -1], "lengths"),
        (np.zeros((4, 4), np.float16), [[4]], "lengths"),
    ],
)
def test_tokens_of_another_shape_are_refused(tmp_path, tokens, lengths, problem):
    save(tmp_path / "probe")
    with pytest.raises(BadInput, match=problem):
        load_probe(tmp_path / "probe").predict(tokens, np.array(lengths))


def test_an_absent_folder_is_no_probe(tmp_path):
    with pytest.raises(BadInput, match=r"no probe: it has no probe\.json"):
        load_probe(tmp_path / "nothing")


def test_missing_and_damaged_weights_are_refused(tmp_path):
    save(tmp_path / "probe")
    path = tmp_path / "probe" / "head.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(BadInput, match="does not match the digest"):
        load_probe(tmp_path / "probe")
    path.unlink()
    with pytest.raises(BadInput, match="is missing"):
        load_probe(tmp_path / "probe")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": ProbeInfoDocument.NEWEST + 1}, NewerFormat),
        ({"kind": "run"}, BadInput),
        ({"format": "1"}, BadInput),
        ({"task": {"kind": "regression"}}, BadInput),
        ({"recipe": {}}, BadInput),
        ({"recipe_name": "one-hot-mrna-0000000000"}, BadInput),
        ({"training": {"epochs": 0}}, BadInput),
        ({"scale": {"mean": 0}}, BadInput),
        ({"head": {"kind": "transformer"}}, BadInput),
        ({"head": {"kind": "textcnn", "width": 4, "outputs": 1}}, BadInput),
        ({"head": {"kind": "textcnn", "depth": 4}}, BadInput),
        ({"scale": None, "classes": ["a", "b"]}, BadInput),
    ],
)
def test_damaged_and_foreign_information_is_refused(tmp_path, change, error):
    save(tmp_path / "probe")
    path = tmp_path / "probe" / "probe.json"
    path.write_text(json.dumps(seal(json.loads(path.read_text()) | change)))
    with pytest.raises(error):
        load_probe(tmp_path / "probe")
