"""Ceilings: hand calculations, and no function of the input passes them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.ceilings import classification_ceilings, regression_ceilings
from probe.metrics import is_constant, spearman

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9)), min_size=3, max_size=30)


def test_the_bound_is_the_share_of_variance_between_inputs():
    # inputs a a b b, labels 0 2 4 6: mean 3, SS_total 9+1+1+9 = 20, SS_within 1+1+1+1 = 4
    r2, by_rank = regression_ceilings(np.array([0.0, 2, 4, 6]), np.array([0, 0, 1, 1]))
    assert r2.bound == pytest.approx(0.8)
    # ranks 1 2 3 4 are as far apart: the same share, and its root for a correlation
    assert by_rank.bound == pytest.approx(math.sqrt(0.8))
    assert math.isnan(r2.expected)  # two repeats tell too little about noise


@given(rows=ROWS, answers=st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_no_function_of_the_input_passes_the_bounds(rows, answers):
    inputs, labels = np.array(rows).T
    if is_constant(labels):
        return
    targets, predicted = labels.astype(float), np.array(answers)[inputs]
    r2, by_rank = regression_ceilings(targets, inputs)
    residual = np.square(targets - predicted).sum()
    assert 1 - residual / np.square(targets - targets.mean()).sum() <= r2.bound + 1e-9
    if not is_constant(predicted):
        assert spearman(predicted, targets) <= by_rank.bound + 1e-9


@given(rows=ROWS, answers=st.lists(st.integers(-9, 9), min_size=6, max_size=6))
def test_no_function_of_the_input_names_more_classes(rows, answers):
    inputs, labels = np.array(rows).T
    (ceiling,) = classification_ceilings(labels, inputs)
    assert (np.array(answers)[inputs] == labels).mean() <= ceiling.bound


def test_the_majority_of_each_input_is_the_best_answer():
    # input 0: classes 1 1 0, two right; input 1: class 0, one right
    (ceiling,) = classification_ceilings(np.array([1, 1, 0, 0]), np.array([0, 0, 0, 1]))
    assert ceiling.bound == 0.75


def test_the_expected_ceiling_is_the_signal_that_was_planted():
    # labels: a value for each input, variance 1, and noise of variance 1/3: R2 of the truth 0.75
    rng = np.random.default_rng(0)
    inputs = np.repeat(np.arange(800), 2)
    truth = rng.normal(size=800)[inputs]
    targets = truth + math.sqrt(1 / 3) * rng.normal(size=1600)
    r2, by_rank = regression_ceilings(targets, inputs)
    assert r2.expected == pytest.approx(0.75, abs=0.03)
    assert by_rank.expected == pytest.approx(spearman(truth, targets), abs=0.03)
    assert r2.bound > 0.83  # knows half of the noise


def test_inputs_that_explain_nothing_expect_nothing():
    rng = np.random.default_rng(1)
    r2, by_rank = regression_ceilings(rng.normal(size=2000), rng.integers(500, size=2000))
    assert r2.expected < 0.05 and by_rank.expected < 0.25
    r2, _ = regression_ceilings(rng.normal(size=50), np.zeros(50, np.int64))
    assert r2.bound == 0 and r2.expected == 0


def test_inputs_that_stand_once_are_no_limit():
    r2, by_rank = regression_ceilings(np.arange(9.0), np.arange(9))
    assert (r2.bound, by_rank.bound) == (1, 1)


def test_equal_labels_have_no_ceiling():
    r2, _ = regression_ceilings(np.ones(4), np.arange(4))
    assert math.isnan(r2.bound)
    assert r2.as_json() == {"metric": "r2", "bound": None, "expected": None}
    (accuracy,) = classification_ceilings(np.array([], np.int64), np.array([], np.int64))
    assert math.isnan(accuracy.bound)
