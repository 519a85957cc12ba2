"""Baselines and comparisons of a run: what they are, and the words they come with."""

import dataclasses
import math

import numpy as np
import pytest

from embedstore.loaders import Features, load_features
from probe import baselines, comparisons
from probe.baselines import composition_baseline, judge_shuffled, one_hot_baseline, run_baselines
from probe.comparisons import compare
from probe.grid import Judgement
from probe.plan import plan_run
from probe.report import results_table
from probe.tasks import Task

TASK = Task(collection="genes", label="label", kind="regression")


@pytest.fixture
def plan(store, quick):
    return plan_run(store, TASK, ["one-hot-mrna", "one-hot-protein"], quick)


def pair_of(found, first, second):
    (pair,) = (p for p in found["pairs"] if (p["first"], p["second"]) == (first, second))
    return pair


def test_every_pair_with_a_backbone_is_compared(plan):
    truth = plan.examples("test").targets
    noise = np.random.default_rng(0).normal(size=(3, len(truth)))
    found = compare(plan, {"a": truth, "b": noise[0]}, {"c": noise[1], "d": noise[2]})
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [
        ("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"),
    ]  # fmt: skip
    assert found["intervals"]["a"] == [1, 1]
    assert found["rows"] == len(truth)
    for pair in found["pairs"]:
        assert pair["p"] <= pair["p_holm"] <= min(1, 5 * pair["p"])


def test_equal_predictions_show_no_detectable_difference(plan):
    truth = plan.examples("test").targets
    pair = pair_of(compare(plan, {"a": truth, "b": truth.copy()}, {}), "a", "b")
    assert pair["verdict"] == "no detectable difference"
    assert (pair["difference"], pair["p"], pair["p_holm"]) == (0, 1, 1)


def test_the_better_one_is_named_whichever_comes_first(plan, monkeypatch):
    big = np.random.default_rng(1).normal(size=400)
    examples = dataclasses.replace(plan.examples("test"), targets=big)
    monkeypatch.setattr(type(plan), "examples", lambda *_: examples)
    monkeypatch.setattr(comparisons, "_test_groups", lambda _: None)
    bad = big + 4 * np.random.default_rng(2).normal(size=400)
    for names in ({"good": big, "bad": bad}, {"bad": bad, "good": big}):
        (pair,) = compare(plan, names, {})["pairs"]
        assert pair["verdict"] == "good scores higher"


def test_a_constant_prediction_is_undefined_not_equal(plan):
    truth = plan.examples("test").targets
    found = compare(plan, {"a": truth, "b": np.zeros_like(truth)}, {})
    assert found["intervals"]["b"] == [None, None]
    assert pair_of(found, "a", "b")["verdict"] == "undefined"
    assert pair_of(found, "a", "b")["p_holm"] is None


def test_rows_that_share_an_input_are_drawn_together(plan, monkeypatch):
    monkeypatch.setattr(comparisons, "FEWEST_GROUPS", 2)
    test = plan.split.test.tolist()
    keys = {name: list(each) for name, each in plan.keys.items()}
    keys["one-hot-protein"][test[1]] = keys["one-hot-protein"][test[0]]
    shared = dataclasses.replace(plan, keys=keys)
    truth = plan.examples("test").targets
    found = compare(shared, {"a": truth}, {})
    assert found["groups"] == len(test) - 1
    assert (
        found["resampled"] == f"the {len(test) - 1} different inputs of the {len(test)} test rows"
    )
    assert compare(plan, {"a": truth}, {})["groups"] is None


def test_composition_needs_no_store_and_finds_codon_usage(store, quick):
    from embedstore.records import Record
    from embedstore.synthetic import make_genes
    from probe.plan import Plan
    from probe.splits import random_split

    genes = make_genes(300, seed=4)
    plan = plan_run(store, TASK, ["one-hot-mrna"], quick)
    rows = tuple(
        Record(name, text, "mrna") for name, text in zip(genes.ids, genes.sequences, strict=True)
    )
    bigger: Plan = dataclasses.replace(
        plan, rows=rows, targets=genes.parts["codon_usage"], split=random_split(genes.ids, 0),
        keys={}, readers={},
    )  # fmt: skip
    found = composition_baseline(bigger)
    assert found.name == "codon-composition-ridge"
    # the planted part is linear in the composition
    assert found.test.score > 0.95
    labels = dataclasses.replace(bigger, targets=genes.parts["noise"])
    assert abs(composition_baseline(labels).test.score) < 0.4


def test_records_without_a_reading_frame_are_read_by_3_mers(plan, store, quick):
    only_mrna = plan_run(store, TASK, ["one-hot-mrna"], quick)  # with the record of odd length
    assert composition_baseline(only_mrna).name == "kmer-composition-ridge"
    proteins = tuple(
        dataclasses.replace(row, sequence="MKV", molecule="protein") for row in plan.rows
    )
    assert (
        composition_baseline(dataclasses.replace(plan, rows=proteins)).name
        == "one-hot-protein-ridge"
    )


def test_classes_are_told_by_composition(store, quick):
    task = Task(collection="genes", label="side", kind="classification")
    plan = plan_run(store, task, ["one-hot-protein"], quick)
    found = composition_baseline(plan)
    assert found.test.predicted.dtype == np.int64
    assert 0 <= found.test.score <= 1


def test_one_hot_stands_beside_unless_it_is_a_backbone(plan, monkeypatch):
    assert [one.name for one in run_baselines(plan)[0]] == ["codon-composition-ridge"]
    renamed = {
        name: type("Reader", (), {"recipe": dataclasses.replace(reader.recipe, backbone="esm2-8m")})
        for name, reader in plan.readers.items()
    }
    found, skipped = run_baselines(dataclasses.replace(plan, readers=renamed))
    assert skipped == {}
    assert [one.name for one in found] == ["codon-composition-ridge", "one-hot-mrna"]
    assert found[1].settings["epochs"] == plan.grid.epochs


def test_the_one_hot_baseline_is_the_backbone_of_that_name(plan):
    from probe.grid import judge, search

    features = load_features(plan.readers["one-hot-mrna"], plan.keys["one-hot-mrna"])
    parts = [plan.examples(part) for part in ("train", "validation", "test")]
    found = search(features, *parts[:2], plan.objective, plan.grid.configurations())
    stored = judge(found.best, features, parts[2], plan.objective)
    made = one_hot_baseline(plan)
    np.testing.assert_allclose(made.test.predicted, stored.predicted, rtol=1e-4)


def test_shuffled_labels_go_with_the_input_in_every_part(plan, monkeypatch):
    seen = {}

    def search(features, train, validation, objective, configurations, head):
        seen.update(train=train, validation=validation)
        return type("Search", (), {"best": None})

    def judge(chosen, features, test, objective):
        seen["test"] = test
        return Judgement(math.nan, test.targets)

    monkeypatch.setattr(baselines, "search", search)
    monkeypatch.setattr(baselines, "judge", judge)
    rows = len(plan.targets)
    inputs = np.arange(rows) // 2  # two rows an input
    features = Features(np.empty((0, 4)), np.empty(0), np.empty(0), inputs)
    judge_shuffled(features, plan, plan.grid.configurations()[0])
    shuffled = np.empty(rows)
    for part, examples in seen.items():
        assert np.array_equal(examples.rows, plan.split.parts[part])
        shuffled[examples.rows] = examples.targets
    assert np.array_equal(shuffled[::2], shuffled[1::2])
    assert sorted(shuffled[::2]) == sorted(plan.targets[::2])
    assert not np.array_equal(shuffled[::2], plan.targets[::2])


def test_results_of_older_versions_still_make_a_table(plan):
    results = {
        "unit": "label",
        "metric": "spearman",
        "backbones": {},
        "constant": {"prediction": 0.5, "test_score": None, "validation_score": None},
    }
    assert "constant" in results_table(plan.document(), results)
