"""The grid: validation chooses, undefined scores never win, the test rows come last."""

import dataclasses
import math

import numpy as np
import pytest

from embedstore.errors import BadInput
from embedstore.loaders import load_features
from probe import grid as grid_module
from probe.grid import Grid, Judgement, judge, pool, search
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


def test_every_configuration_is_trained_with_every_seed():
    configurations = Grid(batch_sizes=(16, 32), learning_rates=(1e-4,), seed=3, seeds=2)
    assert [(one.batch_size, one.seed) for one in configurations.configurations()] == [
        (16, 3), (16, 4), (32, 3), (32, 4),
    ]  # fmt: skip


def test_the_mean_over_seeds_chooses_and_an_undefined_seed_never_wins(plan, features, monkeypatch):
    real = grid_module.train_heads
    grid = dataclasses.replace(plan.grid, seeds=2, epochs=1)
    rates = [one.learning_rate for one in grid.configurations()[:2]]
    for scores, winner in (
        # first seed of each rate, then the second seed
        ([0.9, 0.5, 0.0, 0.5], 1),
        ([0.9, 0.5, 0.3, 0.5], 0),
        ([0.9, 0.1, math.nan, 0.1], 1),
    ):
        left = iter(scores)
        monkeypatch.setattr(
            grid_module,
            "train_heads",
            lambda *args, left=left: [
                dataclasses.replace(one, validation_score=next(left)) for one in real(*args)
            ],
        )
        found = search(
            features,
            plan.examples("train"),
            plan.examples("validation"),
            plan.objective,
            grid.configurations(),
        )
        assert [one.config.seed for one in found.seeds] == [0, 1]
        assert {one.config.learning_rate for one in found.seeds} == {rates[winner]}
        expected = (scores[winner] + scores[2 + winner]) / 2
        assert found.validation_score == pytest.approx(expected)
        assert found.best is found.seeds[0]


def test_several_judgements_are_one_with_their_mean_score():
    one, other = Judgement(0.2, np.array([1.0, 2])), Judgement(0.6, np.array([3.0, 4]))
    assert pool([one]) is one
    both = pool([one, other])
    assert both.score == pytest.approx(0.4)
    assert both.predicted.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_sizes": ()},
        {"learning_rates": (1e-4, 1e-4)},
        {"batch_sizes": (0,)},
        {"learning_rates": (-1e-4,)},
        {"epochs": 0},
        {"seeds": 0},
    ],
)
def test_an_impossible_grid_is_refused(options):
    with pytest.raises(BadInput):
        Grid(**options)
