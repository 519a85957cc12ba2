"""The grid: validation chooses, undefined scores never win, the test rows come last."""

import dataclasses
import math

import pytest

from embedstore.errors import BadInput
from embedstore.loaders import load_features
from probe import grid as grid_module
from probe.grid import Grid, judge, search
from probe.plan import plan_run
from probe.tasks import Task

TASK = Task(collection="genes", label="label", kind="regression")


@pytest.fixture
def plan(store, quick):
    return plan_run(store, TASK, ["one-hot-protein"], quick)


@pytest.fixture
def features(plan):
    return load_features(plan.readers["one-hot-protein"], plan.keys["one-hot-protein"])


def searched(plan, features):
    return search(
        features,
        plan.examples("train"),
        plan.examples("validation"),
        plan.objective,
        plan.grid.configurations(),
    )


def test_the_default_grid_is_that_of_the_paper():
    configurations = Grid().configurations()
    assert len(configurations) == 20
    assert {one.batch_size for one in configurations} == {16, 32, 64, 128}
    assert {one.learning_rate for one in configurations} == {1e-4, 3e-4, 5e-4, 7e-4, 9e-4}
    assert {one.seed for one in configurations} == {0}


def test_the_best_validation_score_wins(plan, features):
    found = searched(plan, features)
    assert [one.config for one in found.tried] == plan.grid.configurations()
    assert found.best.validation_score == max(one.validation_score for one in found.tried)


def test_of_equal_scores_the_first_wins_and_undefined_ones_never(plan, features, monkeypatch):
    real = grid_module.train_heads
    for scores, winner in (
        ([math.nan, -0.3], 1),
        ([0.2, math.nan], 0),
        ([0.2, 0.2], 0),
        ([math.nan, math.nan], 0),
    ):
        left = iter(scores)
        monkeypatch.setattr(
            grid_module,
            "train_heads",
            lambda *args, left=left: [
                dataclasses.replace(one, validation_score=next(left)) for one in real(*args)
            ],
        )
        found = searched(plan, features)
        assert found.best.config == plan.grid.configurations()[winner]


def test_a_judgement_is_the_score_of_its_predictions(plan, features):
    test = plan.examples("test")
    judged = judge(searched(plan, features).best, features, test, plan.objective)
    assert judged.predicted.shape == test.targets.shape
    assert judged.score == plan.objective.score(judged.predicted, test.targets)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_sizes": ()},
        {"learning_rates": (1e-4, 1e-4)},
        {"batch_sizes": (0,)},
        {"learning_rates": (-1e-4,)},
        {"epochs": 0},
    ],
)
def test_an_impossible_grid_is_refused(options):
    with pytest.raises(BadInput):
        Grid(**options)
