"""Successive halving: who goes on, how far, and that the winner is trained as in a full grid."""

import dataclasses
import math

import numpy as np
import pytest

from embedstore.loaders import load_features
from probe.grid import Grid, search
from probe.halving import halve
from probe.objective import Objective
from probe.plan import plan_run
from probe.tasks import Task
from probe.training import train_head

from .conftest import assert_trained_alike

TASK = Task(collection="genes", label="label", kind="regression")
NINE = Grid(
    batch_sizes=(16, 32, 64), learning_rates=(1e-4, 3e-4, 9e-4), epochs=11, patience=11
).configurations()


@pytest.fixture
def data(store, quick):
    plan = plan_run(store, TASK, ["one-hot-protein"], quick)
    features = load_features(plan.readers["one-hot-protein"], plan.keys["one-hot-protein"])
    return features, plan.examples("train"), plan.examples("validation"), plan.objective


@pytest.fixture
def scored(monkeypatch):
    """Scores by configuration, in order; the same in every epoch."""

    def give(scores):
        # the streams of three heads take turns: three epochs each, then who is left
        left = iter(scores)
        monkeypatch.setattr(Objective, "score", lambda *_: next(left))

    return give


def epochs(trained):
    return [len(one.curve) for one in trained]


def test_a_third_goes_on_from_each_rung(data, scored):
    first = [[0.1, 0.9, 0.2], [0.3, 0.8, 0.1], [0.1, 0.2, 0.7]]  # each stream, in three epochs
    rest = [0.9] * 6 + [0.8] * 6 + [0.75] * 6 + [0.95, 0.9]
    scored([score for stream in first for score in stream * 3] + rest)
    trained = halve(*data, NINE)
    assert [one.config for one in trained] == NINE
    assert epochs(trained) == [3, 11, 3, 3, 9, 3, 3, 3, 9]
    best = max(trained, key=lambda one: one.validation_score)
    assert (best.config, best.best_epoch) == (NINE[1], 10)


def test_of_equal_scores_the_earlier_goes_on_and_undefined_ones_last(data, scored):
    scored([math.nan, 0.5, 0.5] * 3 + [0.5] * 100)
    trained = halve(*data, NINE[:3])
    assert epochs(trained) == [3, 11, 3]


def test_seeds_of_a_configuration_go_on_or_stop_together(data, scored):
    rates = [dataclasses.replace(NINE[at], epochs=4) for at in (0, 1, 2)]
    configs = [dataclasses.replace(one, seed=seed) for seed in (0, 1) for one in rates]
    # seed 0 likes the first best, seed 1 the second; the second has the best mean
    scored([0.5, 0.4, 0.1] * 3 + [0.1, 0.8, 0.1] * 3 + [0.1] * 100)
    assert epochs(halve(*data, configs)) == [3, 4, 3, 3, 4, 3]


def test_configurations_of_any_order_come_back_in_it(data):
    mixed = [dataclasses.replace(NINE[number], epochs=2) for number in (0, 3, 1, 4)]
    assert [one.config for one in halve(*data, mixed)] == mixed


def test_the_winner_is_trained_as_it_is_alone(data):
    configs = [dataclasses.replace(one, epochs=5) for one in NINE[:3]]
    found = search(*data, configs, "textcnn", "halving")
    assert sorted(len(one.curve) for one in found.tried) == [3, 3, 5]
    alone = train_head(*data, found.best.config)
    assert found.best.best_epoch == alone.best_epoch
    np.testing.assert_allclose(
        [each.train_loss for each in found.best.curve],
        [each.train_loss for each in alone.curve],
        rtol=1e-4,
    )
    assert_trained_alike(found.best, alone)


def test_few_epochs_leave_nothing_to_halve(data):
    configs = [dataclasses.replace(one, epochs=3) for one in NINE[:2]]
    assert epochs(halve(*data, configs)) == [3, 3]
