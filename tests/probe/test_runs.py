"""A run's folder: shared rows, one split, published whole, resumed, never overwritten."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from embedstore.documents import seal
from embedstore.errors import BadInput, MissingCollection, MissingRecipe
from probe import runs
from probe.plan import plan_run
from probe.predict import find_probe
from probe.predictions import read_predictions
from probe.saved import load_probe
from probe.split_rules import SplitRule
from probe.splits import load_split
from probe.tasks import Task

GENES, NO_LABEL, NO_PROTEIN = 60, "synthetic-2", "synthetic-3"  # as in conftest.py
BOTH = ["one-hot-mrna", "one-hot-protein"]
TASK = Task(collection="genes", label="label", kind="regression")


@pytest.fixture(scope="module")
def plan(store):
    from probe.grid import Grid

    quick = Grid(batch_sizes=(16,), learning_rates=(3e-4, 9e-4), epochs=2)
    return plan_run(store, TASK, BOTH, quick)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, runs.run_grid(plan, folder)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_all_backbones_share_the_rows_that_each_has_stored(plan):
    assert {*plan.keys} == {*BOTH}
    assert {len(keys) for keys in plan.keys.values()} == {GENES - 2}
    assert {NO_LABEL, NO_PROTEIN}.isdisjoint(plan.split.ids)
    assert plan.dropped == {
        "no label": 1,
        "no mrna view for one-hot-mrna": 0,
        "not embedded with one-hot-mrna": 0,
        "no protein view for one-hot-protein": 1,
        "not embedded with one-hot-protein": 0,
    }


def test_the_split_depends_on_the_rows_and_the_seed_not_on_the_backbone(store, quick):
    def digest(backbone, seed=0):
        return plan_run(store, TASK, backbone, dataclasses.replace(quick, seed=seed)).split.digest

    with_protein = digest(BOTH)
    assert digest(["one-hot-protein"]) == with_protein == digest(BOTH[::-1])
    assert digest(["one-hot-protein"], seed=1) != with_protein
    assert digest(["one-hot-mrna"]) != with_protein  # one more row


def test_a_run_holds_everything_that_was_promised(finished, plan):
    folder, results = finished
    assert sorted(contents(folder)) == [
        "baselines/codon-composition-ridge.csv",
        "predictions/one-hot-mrna.csv",
        "predictions/one-hot-protein.csv",
        "probes/one-hot-mrna/head.safetensors",
        "probes/one-hot-mrna/probe.json",
        "probes/one-hot-protein/head.safetensors",
        "probes/one-hot-protein/probe.json",
        "report.html",
        "results.json",
        "results.md",
        "run.json",
        "split.json",
        "test_groups.csv",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    assert json.loads((folder / "results.json").read_text()) == seal(results)
    assert load_split(folder / "split.json", plan.split.ids).digest == plan.split.digest
    run = json.loads((folder / "run.json").read_text())
    assert run["split"]["digest"] == plan.split.digest
    assert {"embedstore", "torch", "numpy", "python"} <= set(run["versions"])


def test_results_say_how_each_backbone_was_chosen_and_judged(finished):
    _, results = finished
    for name in BOTH:
        one = results["backbones"][name]
        assert len(one["configurations"]) == 2
        best = max(one["configurations"], key=lambda tried: tried["validation_score"])
        assert best["validation_score"] == one["validation_score"]
        assert best["learning_rate"] == one["chosen"]["learning_rate"]
        assert len(best["curve"]["train_loss"]) == len(best["curve"]["validation_score"]) == 2
        assert one["n"] == {"train": 41, "validation": 9, "test": 8}


def test_the_constant_baseline_has_no_rank_correlation(finished, plan):
    _, results = finished
    train = plan.examples("train").targets
    assert results["constant"] == {
        "prediction": pytest.approx(train.mean()),
        "validation_score": None,
        "test_score": None,
    }


def test_results_hold_intervals_comparisons_baselines_and_the_audit(finished, plan):
    folder, results = finished
    names = [*BOTH, "codon-composition-ridge"]
    assert [*results["comparisons"]["intervals"]] == names
    for name, (low, high) in results["comparisons"]["intervals"].items():
        one = results["backbones"].get(name) or results["baselines"][name]
        assert -1 <= low <= one["test_score"] <= high <= 1
    pairs = [(pair["first"], pair["second"]) for pair in results["comparisons"]["pairs"]]
    assert pairs == [tuple(BOTH), (BOTH[0], names[2]), (BOTH[1], names[2])]
    difference = results["comparisons"]["pairs"][0]["difference"]
    scores = [results["backbones"][name]["test_score"] for name in BOTH]
    assert difference == pytest.approx(scores[0] - scores[1])
    assert all("shuffled_labels_test_score" in results["backbones"][name] for name in BOTH)
    assert results["audit"] == plan.audit.as_json()
    assert [view["view"] for view in results["audit"]["views"]] == ["mrna", "protein"]
    table = (folder / "results.md").read_text()
    assert "| baseline: codon-composition-ridge |" in table
    assert "| one-hot-mrna, shuffled labels |" in table
    assert "| one-hot-mrna | one-hot-protein |" in table
    assert "no detectable difference" in table


def test_what_cannot_work_is_refused_unless_told(plan, tmp_path, caplog):
    one_protein = plan.keys | {"one-hot-protein": [plan.keys["one-hot-protein"][0]] * (GENES - 2)}
    hopeless = dataclasses.replace(plan, keys=one_protein)
    with pytest.raises(BadInput, match=r"cannot work: protein: all 58 rows .*--force"):
        runs.run_grid(hopeless, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    results = runs.run_grid(hopeless, tmp_path / "run", force=True)
    assert "forced: protein: all 58 rows" in caplog.text
    assert results["audit"]["refusals"]
    verdicts = {pair["verdict"] for pair in results["comparisons"]["pairs"]}
    assert "undefined" in verdicts
    assert "- protein: all 58 rows" in (tmp_path / "run" / "results.md").read_text()


def test_the_predictions_give_the_reported_test_score(finished, plan):
    folder, results = finished
    for name in BOTH:
        with (folder / "predictions" / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == [
            plan.split.ids[row] for row in plan.split.test.tolist()
        ]
        true, predicted = (np.array([float(row[c]) for row in rows]) for c in ("true", "predicted"))
        assert np.array_equal(true, plan.examples("test").targets)
        assert plan.objective.score(predicted, true) == results["backbones"][name]["test_score"]


def test_the_saved_probe_is_the_head_that_was_judged(finished, plan):
    folder, results = finished
    name = "one-hot-protein"
    probe = load_probe(folder / "probes" / name)
    keys = [plan.keys[name][row] for row in plan.split.test.tolist()]
    packed = plan.readers[name].batch(keys)
    predicted = probe.predict(packed.tokens, packed.lengths)
    with (folder / "predictions" / f"{name}.csv").open(newline="") as file:
        written = [float(row["predicted"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(predicted, written, rtol=1e-5)
    assert probe.info.split_digest == plan.split.digest
    assert probe.info.metrics["test"] == {
        "spearman": results["backbones"][name]["test_score"],
        "n": 8,
    }


def test_the_table_and_the_page_show_every_backbone(finished):
    folder, results = finished
    table = (folder / "results.md").read_text()
    for name in BOTH:
        assert f"| {name} |" in table
        assert f"{results['backbones'][name]['test_score']:.3f}" in table
    assert "| constant" in table and "undefined" in table
    assert "58 of 60 records used" in table
    assert "1 no label, 1 no protein view for one-hot-protein" in table
    page = (folder / "report.html").read_text()
    for name in BOTH:
        assert page.count(f"<figcaption>{name}: ") == 3  # predictions, curves, grid


def test_test_labels_change_nothing_but_the_judgement(finished, plan, tmp_path):
    folder, results = finished
    targets = plan.targets.copy()
    targets[plan.split.test] = targets[plan.split.test][::-1]
    other = runs.run_grid(dataclasses.replace(plan, targets=targets), tmp_path / "run")
    for name in BOTH:
        weights = f"probes/{name}/head.safetensors"
        assert (tmp_path / "run" / weights).read_bytes() == (folder / weights).read_bytes()
        mine, theirs = (each["backbones"][name] for each in (results, other))
        assert mine["chosen"] == theirs["chosen"]
        assert mine["validation_score"] == theirs["validation_score"]
        assert mine["test_score"] != theirs["test_score"]


def test_the_test_rows_are_read_once_a_backbone_after_the_search(plan, tmp_path, monkeypatch):
    order = []
    for name in ("search", "judge"):
        real = getattr(runs, name)
        monkeypatch.setattr(
            runs, name, lambda *args, name=name, real=real: order.append(name) or real(*args)
        )
    runs.run_grid(plan, tmp_path / "run")
    assert order == ["search", "judge", "search", "judge"]


def test_a_finished_run_is_read_not_computed_again(finished, plan, monkeypatch):
    folder, results = finished
    before = contents(folder)
    monkeypatch.setattr(runs, "search", None)
    assert runs.run_grid(plan, folder) == results
    assert contents(folder) == before


def test_another_run_is_never_overwritten(finished, plan, tmp_path):
    folder, _ = finished
    before = contents(folder)
    other = dataclasses.replace(plan, grid=dataclasses.replace(plan.grid, epochs=3))
    with pytest.raises(BadInput, match="differs in grid"):
        runs.run_grid(other, folder)
    assert contents(folder) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"no run\.json"):
        runs.run_grid(plan, tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_a_label_corrected_under_the_same_id_makes_another_run(finished, plan):
    targets = plan.targets.copy()
    targets[0] += 1
    with pytest.raises(BadInput, match="differs in rows"):
        runs.run_grid(dataclasses.replace(plan, targets=targets), finished[0])


def test_a_killed_run_goes_on_where_it_stopped(finished, plan, tmp_path, monkeypatch):
    real, trained = runs._probe_backbone, []

    def killed(plan, name, draft, memory):
        if name == "one-hot-protein":
            # what a kill between saving the probe and its result leaves behind
            shutil.copytree(draft / "probes" / "one-hot-mrna", draft / "probes" / name)
            raise KeyboardInterrupt
        return real(plan, name, draft, memory)

    folder = tmp_path / "run"
    monkeypatch.setattr(runs, "_probe_backbone", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.run_grid(plan, folder)
    assert not folder.exists()

    other = dataclasses.replace(plan, grid=dataclasses.replace(plan.grid, seed=5))
    with pytest.raises(BadInput, match="unfinished run"):
        runs.run_grid(other, folder)

    monkeypatch.setattr(
        runs, "_probe_backbone", lambda *args: trained.append(args[1]) or real(*args)
    )
    runs.run_grid(plan, folder)
    assert trained == ["one-hot-protein"]
    whole, resumed = contents(finished[0]), contents(folder)
    timed = {"results.json", "results.md", "report.html"}  # they hold seconds
    assert {name: resumed[name] for name in resumed.keys() - timed} == {
        name: whole[name] for name in whole.keys() - timed
    }
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_two_processes_cannot_make_one_run(plan, tmp_path):
    draft = tmp_path / ".run.draft"
    draft.mkdir()
    with runs._locked(draft), pytest.raises(BadInput, match="Another process"):
        runs.run_grid(plan, tmp_path / "run")


def test_several_seeds_are_means_and_each_seed_beside(store, quick, tmp_path):
    grid = dataclasses.replace(quick, seed=2, seeds=3, epochs=1)
    plan = plan_run(store, TASK, ["one-hot-protein"], grid)
    assert plan.split.digest == plan_run(store, TASK, ["one-hot-protein"], dataclasses.replace(
        grid, seeds=1)).split.digest  # fmt: skip
    folder = tmp_path / "run"
    results = runs.run_grid(plan, folder)
    one = results["backbones"]["one-hot-protein"]
    assert [each["seed"] for each in one["seeds"]] == [2, 3, 4]
    for part in ("validation", "test"):
        mean = np.mean([each[f"{part}_score"] for each in one["seeds"]])
        assert one[f"{part}_score"] == pytest.approx(mean)
    tried = {(t["batch_size"], t["learning_rate"], t["seed"]) for t in one["configurations"]}
    assert len(tried) == len(one["configurations"]) == 6
    means = {
        rate: np.mean([t["validation_score"] for t in one["configurations"]
                       if t["learning_rate"] == rate])
        for rate in grid.learning_rates
    }  # fmt: skip
    assert one["chosen"]["learning_rate"] == max(means, key=means.get)
    with (folder / "predictions" / "one-hot-protein.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["id", "true", "predicted_0", "predicted_1", "predicted_2"]
    predicted = read_predictions(folder / "predictions" / "one-hot-protein.csv", plan)
    truth = plan.examples("test").targets
    for row, each in zip(predicted, one["seeds"], strict=True):
        assert plan.objective.score(row, truth) == each["test_score"]
    keys = [plan.keys["one-hot-protein"][row] for row in plan.split.test.tolist()]
    packed = plan.readers["one-hot-protein"].batch(keys)
    names = ["one-hot-protein", "one-hot-protein-seed-3", "one-hot-protein-seed-4"]
    assert sorted(path.name for path in (folder / "probes").iterdir()) == names
    for row, name in zip(predicted, names, strict=True):
        probe = load_probe(folder / "probes" / name)
        np.testing.assert_allclose(probe.predict(packed.tokens, packed.lengths), row, rtol=1e-4)
    assert find_probe(folder).name == "one-hot-protein"
    low, high = results["comparisons"]["intervals"]["one-hot-protein"]
    assert low <= one["test_score"] <= high


def test_classes_are_probed_and_drawn(store, quick, tmp_path):
    task = Task(collection="genes", label="side", kind="classification")
    plan = plan_run(store, task, ["one-hot-mrna"], quick)
    results = runs.run_grid(plan, tmp_path / "run")
    assert results["metric"] == "accuracy"
    test, majority = plan.examples("test").targets, results["constant"]["prediction"]
    assert majority in ("high", "low")
    share = (test == plan.classes.index(majority)).mean()
    assert results["constant"]["test_score"] == share
    with (tmp_path / "run" / "predictions" / "one-hot-mrna.csv").open(newline="") as file:
        assert {row["predicted"] for row in csv.DictReader(file)} <= {"high", "low"}


def test_too_few_shared_rows_say_what_was_left_out(store, quick):
    task = dataclasses.replace(TASK, max_letters=230)
    with pytest.raises(BadInput, match=r"too few.*sequence longer than 230 letters"):
        plan_run(store, task, BOTH, quick)


def test_what_the_store_lacks_is_named(store, quick):
    with pytest.raises(MissingRecipe, match="esm2-8m"):
        plan_run(store, TASK, ["one-hot-mrna", "esm2-8m"], quick)
    with pytest.raises(MissingCollection, match="yeast"):
        plan_run(store, dataclasses.replace(TASK, collection="yeast"), BOTH, quick)


def test_one_recipe_cannot_be_named_twice(store, quick):
    recipe = store.recipe("one-hot-mrna").name
    with pytest.raises(BadInput, match="named twice"):
        plan_run(store, TASK, ["one-hot-mrna", recipe], quick)


def test_a_run_of_classes_keeps_its_warnings_and_old_plain_splits_are_told(store, quick, tmp_path):
    task = Task(collection="genes", label="side", kind="classification")
    rule = SplitRule(text="random-plain")
    plain = plan_run(store, task, ["one-hot-mrna"], quick, split_rule=rule)
    runs.run_grid(plain, tmp_path / "run")
    document = json.loads((tmp_path / "run/run.json").read_text())
    assert document["warnings"] == [*plain.audit.warnings]
    assert document["split"]["rule"] == "random 0.7:0.15:0.15"
    assert runs.run_grid(plain, tmp_path / "run")["backbones"]  # read, not made again
    by_class = plan_run(store, task, ["one-hot-mrna"], quick)
    assert by_class.split.rule == "random by class 0.7:0.15:0.15"
    with pytest.raises(BadInput, match=r"differs in split.*--split random-plain"):
        runs.run_grid(by_class, tmp_path / "run")
    document["split"]["rule"] = "the same rows in other words"
    (tmp_path / "run/run.json").write_text(json.dumps(seal(document)))
    assert runs.run_grid(plain, tmp_path / "run")["backbones"]  # the digest decides
    saved = SplitRule(text=str(tmp_path / "run/split.json"))
    again = plan_run(store, task, ["one-hot-mrna"], quick, split_rule=saved)
    assert again.split.digest == plain.split.digest
