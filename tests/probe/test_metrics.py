"""Scores: known values, and what counts as undefined."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.metrics import accuracy, balanced_accuracy, macro_f1, pearson, rank, spearman


def test_spearman_is_the_textbook_value():
    # by hand: ranks 1 2 3 4 5 against 2 1 4 3 5, d² adds up to 4, 1 - 6*4/(5*24) = 0.8
    predicted = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert spearman(predicted, np.array([20.0, 10.0, 40.0, 30.0, 50.0])) == pytest.approx(0.8)


@given(st.lists(st.integers(-50, 50), min_size=3, max_size=30, unique=True))
def test_spearman_sees_only_the_order(values):
    true = np.array(values, float)
    assert spearman(np.exp(true / 20), true) == pytest.approx(1)
    assert spearman(-(true**3), true) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0]),
        ([1.0, math.inf, 3.0], [1.0, 2.0, 3.0]),
        ([1.0], [1.0]),
        ([], []),
    ],
)
def test_spearman_is_nan_where_it_is_undefined(predicted, true):
    assert math.isnan(spearman(np.array(predicted), np.array(true)))


def test_accuracy_is_the_fraction_of_equal_classes():
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75
    assert math.isnan(accuracy(np.array([], np.int64), np.array([], np.int64)))


@pytest.mark.parametrize("metric", [spearman, accuracy])
def test_other_shapes_are_refused_not_broadcast(metric):
    with pytest.raises(ValueError, match="shapes differ"):
        metric(np.zeros((3, 1)), np.zeros(3))


def test_an_undefined_score_ranks_below_every_other():
    assert rank(math.nan) < rank(-1.0) < rank(0.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_balanced_scores_of_classes_are_those_of_scikit_learn(pairs):
    from sklearn.metrics import f1_score, recall_score

    predicted, true = np.array(pairs).T
    there = np.unique(true)
    recall = recall_score(true, predicted, labels=there, average="macro", zero_division=0)
    assert balanced_accuracy(predicted, true) == pytest.approx(recall)
    expected = f1_score(true, predicted, average="macro", zero_division=0)
    assert macro_f1(predicted, true) == pytest.approx(expected)


def test_pearson_is_undefined_where_spearman_is():
    line = np.arange(5.0)
    assert pearson(3 * line + 1, line) == pytest.approx(1)
    assert math.isnan(pearson(np.ones(5), line)) and math.isnan(pearson(line * math.nan, line))
    with pytest.raises(ValueError, match="shapes differ"):
        pearson(line[:2], line)
