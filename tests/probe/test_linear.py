"""Linear heads: the solution of their equations, on means that come from the store."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from embedstore.loaders import load_features
from probe.grid import search
from probe.linear import PENALTIES, features_of_means, fit_heads, load_means, penalties
from probe.objective import Objective
from probe.plan import plan_run
from probe.stream import predict_rows
from probe.tasks import Task
from probe.training import Examples, LinearConfig

NUMBERS = Task(collection="c", label="l", kind="regression")
NAMES = Task(collection="c", label="l", kind="classification")
D = 6


def inputs(rows=80, seed=0):
    rng = np.random.default_rng(seed)
    means = (rng.normal(size=(rows, D)) * 10.0 ** np.arange(-2, D - 2) + 3).astype(np.float32)
    return means, features_of_means(means, np.arange(rows))


def fit(features, objective, targets, penalty, kind):
    rows = np.arange(len(targets))
    train, validation = Examples(rows[:60], targets[:60]), Examples(rows[60:], targets[60:])
    (one,) = fit_heads(
        features, train, validation, objective, [LinearConfig(penalty=penalty)], kind
    )
    return one


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_ridge_solves_the_normal_equations(outputs, penalty):
    means, features = inputs()
    rng = np.random.default_rng(1)
    targets = means @ rng.normal(size=(D, outputs)) + rng.normal(size=(80, outputs))
    targets = targets[:, 0] if outputs == 1 else targets
    task = NUMBERS if outputs == 1 else dataclasses.replace(NUMBERS, label="a,b,c")
    objective = Objective.fit(task, (), targets[:60])
    found = fit(features, objective, targets, penalty, "ridge")
    x = means.astype(np.float64)
    x = (x - x[:60].mean(axis=0)) / x[:60].std(axis=0)
    y = targets.reshape(80, -1)
    y = (y - y[:60].mean(axis=0)) / y[:60].std(axis=0)
    weights = np.linalg.solve(x[:60].T @ x[:60] + penalty * 60 * np.eye(D), x[:60].T @ y[:60])
    expected = objective.decode((x @ weights).astype(np.float32))
    predicted = predict_rows(found.head, features, np.arange(80), objective)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert (found.best_epoch, found.curve) == (0, ())


def test_an_output_without_a_label_in_some_rows_is_fitted_on_the_others():
    means, features = inputs()
    targets = means[:, :2].astype(np.float64)
    targets[:30, 1] = np.nan
    task = Task(collection="c", label="l", kind="per-position")
    objective = Objective.fit(task, (), targets[:60])
    found = fit(features, objective, targets, 1e-2, "ridge")
    x = means.astype(np.float64)
    x = (x - x[:60].mean(axis=0)) / x[:60].std(axis=0)
    own = slice(30, 60)  # the rows that have the second label
    y = objective.training_values(targets[own])[:, 1].astype(np.float64)
    centred = x[own] - x[own].mean(axis=0)
    gram = centred.T @ centred + 1e-2 * 30 * np.eye(D)
    weights = np.linalg.solve(gram, centred.T @ (y - y.mean()))
    np.testing.assert_allclose(
        found.head.fc.weight[1].detach().numpy(), weights, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_logistic_is_that_of_scikit_learn(count, balance):
    means, features = inputs(seed=2)
    classes = np.digitize(means[:, 3] / 10, [0.2, 1.2][: count - 1])
    task = dataclasses.replace(NAMES, balance=balance)
    objective = Objective.fit(task, tuple("abc"[:count]), classes[:60])
    found = fit(features, objective, classes, 0.01, "logistic")
    x = (means - means[:60].mean(axis=0)) / means[:60].std(axis=0)
    reference = LogisticRegression(C=1 / (0.01 * 60), class_weight="balanced" if balance else None)
    reference.fit(x[:60], classes[:60])
    assert (
        predict_rows(found.head, features, np.arange(80), objective) == reference.predict(x)
    ).all()


def test_a_class_without_training_rows_is_never_named():
    means, features = inputs(seed=3)
    classes = (means[:, 0] > 3).astype(np.int64)
    classes[70:] = 2
    objective = Objective.fit(NAMES, ("a", "b", "c"), classes[:60])
    found = fit(features, objective, classes, 0.01, "logistic")
    assert {*predict_rows(found.head, features, np.arange(80), objective).tolist()} == {0, 1}


def test_a_feature_that_does_not_vary_says_nothing():
    means, _ = inputs()
    targets = means[:, 1].astype(np.float64)
    objective = Objective.fit(NUMBERS, (), targets[:60])
    steady = means.copy()
    steady[:60, 0] = 100.0
    steady[60:, 0] = [-1e4, 1e4] * 10  # a new value, in rows that nothing was learnt from
    predicted = []
    for each in (steady, np.delete(means, 0, axis=1)):
        features = features_of_means(each, np.arange(80))
        found = fit(features, objective, targets, 0.1, "ridge")
        predicted.append(predict_rows(found.head, features, np.arange(80), objective))
    np.testing.assert_allclose(*predicted, rtol=1e-4)


@pytest.fixture
def plan(store, quick):
    task = Task(collection="genes", label="label", kind="regression")
    return plan_run(store, task, ["one-hot-protein"], quick, head="ridge")


def test_means_of_the_store_are_the_means_of_its_tokens(plan):
    reader, keys = plan.readers["one-hot-protein"], plan.keys["one-hot-protein"]
    means, tokens = load_means(reader, keys), load_features(reader, keys)
    parts = (plan.examples(part) for part in ("train", "validation"))
    found = search(means, *parts, plan.objective, plan.configurations, "ridge")
    rows = plan.split.test
    mine, theirs = (predict_rows(found.best.head, e, rows, plan.objective) for e in (means, tokens))
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_only_means_are_read(plan, monkeypatch):
    reader, keys = plan.readers["one-hot-protein"], plan.keys["one-hot-protein"]
    monkeypatch.setattr(type(reader), "batch", None)
    assert len(load_means(reader, keys).rows) == len(keys)


def test_validation_chooses_the_penalty(plan):
    means = load_means(plan.readers["one-hot-protein"], plan.keys["one-hot-protein"])
    parts = (plan.examples(part) for part in ("train", "validation"))
    found = search(means, *parts, plan.objective, plan.configurations, "ridge")
    assert [one.config.penalty for one in found.tried] == [*PENALTIES["ridge"]]
    scores = [one.validation_score for one in found.tried]
    assert found.validation_score == max(each for each in scores if not math.isnan(each))
    assert len(found.seeds) == 1


def test_a_penalty_is_positive():
    assert [one.penalty for one in penalties("logistic")] == [*PENALTIES["logistic"]]
    with pytest.raises(ValueError, match="penalty"):
        LinearConfig(penalty=0.0)
