"""Variances of scores and differences: against hand calculations and noise of known size."""

import math

import numpy as np
import pytest

from probe.judging import Design
from probe.judging.rescored import Rescored
from probe.judging.variance import Side, measure_noises, measure_variance, speaks_of_heads

G = 50
SMALL = G / (G - 1)
ONE = Design.of_one_split(np.arange(G), 200)
THREE = Design(
    groups=np.arange(G),
    tests=tuple(np.array_split(np.arange(G), 3)),
    train_rows=(30, 30, 30),
    table_rows=G,
    resplit="folds",
)


def scores(seed, splits, trainings, resamples=400):
    rng = np.random.default_rng(seed)
    point = rng.normal(0.5, 0.1, (splits, trainings))
    common = rng.normal(0, 0.05, (splits, 1, resamples))
    return Rescored(
        point, point[..., None] + common + rng.normal(0, 0.03, (splits, trainings, resamples))
    )


def shared_and_spread(each):
    """C, s^2 and S of the module's first formula, straight from a covariance matrix."""
    matrix = SMALL * np.cov(each.drawn[0])
    trainings = len(matrix)
    off = matrix[~np.eye(trainings, dtype=bool)].mean()
    return off, np.var(each.point[0], ddof=1), trainings


def test_a_mean_over_trainings_has_the_formula_s_variance():
    each = scores(0, 1, 4)
    shared, spread, trainings = shared_and_spread(each)
    found = measure_variance(ONE, [Side(each, True)], G)
    assert found.error**2 == pytest.approx(shared + spread / trainings)
    rows = 1 / (1 / (G - 1) + 1 / 399)
    squares = shared**2 / rows + (spread / 4) ** 2 / 3
    assert found.freedom == pytest.approx((shared + spread / 4) ** 2 / squares)


def test_each_side_of_a_difference_brings_its_own_noise_of_training():
    a, b = scores(1, 1, 3), scores(2, 1, 5)
    c_a, s_a, _ = shared_and_spread(a)
    c_b, s_b, _ = shared_and_spread(b)
    cross = SMALL * np.cov(a.drawn[0], b.drawn[0])[:3, 3:].mean()
    found = measure_variance(ONE, [Side(a, True), Side(b, True, -1)], G)
    assert found.error**2 == pytest.approx(c_a + c_b - 2 * cross + s_a / 3 + s_b / 5)


def test_a_head_without_seeds_brings_the_whole_noise_of_its_rows_and_no_other():
    a, b = scores(3, 1, 3), scores(4, 1, 1)
    c_a, s_a, _ = shared_and_spread(a)
    own = SMALL * np.var(b.drawn[0, 0], ddof=1)
    cross = SMALL * np.cov(a.drawn[0], b.drawn[0])[:3, 3].mean()
    sides = [Side(a, True), Side(b, False, -1)]
    assert measure_variance(ONE, sides, G).error ** 2 == pytest.approx(
        c_a + own - 2 * cross + s_a / 3
    )
    assert not speaks_of_heads(ONE, sides)
    assert speaks_of_heads(ONE, [sides[0], Side(b, True, -1)])
    assert measure_variance(ONE, [Side(b, True)], G).error ** 2 == pytest.approx(own)


def test_splits_bring_overlapping_rows_of_train_and_what_they_differ_by():
    a, b = scores(5, 3, 1), scores(6, 3, 1)
    drawn = (a.drawn - b.drawn)[:, 0]
    matrix = SMALL * np.cov(drawn)
    own = matrix.diagonal().mean() - matrix[~np.eye(3, dtype=bool)].mean()
    excess = max(0, np.var((a.point - b.point)[:, 0], ddof=1) - own)
    found = measure_variance(THREE, [Side(a, True), Side(b, True, -1)], G)
    assert found.rows == pytest.approx(matrix.mean() * 50 / 30)
    assert found.others == pytest.approx(excess / 3)
    assert not speaks_of_heads(THREE, [Side(a, True)])


def test_undefined_resamples_are_left_out_up_to_a_share():
    each = scores(7, 1, 3)
    each.drawn[0, 1, :20] = np.nan  # 5 %
    assert math.isfinite(measure_variance(ONE, [Side(each, True)], G).error)
    each.drawn[0, 2, 20] = np.nan
    assert math.isnan(measure_variance(ONE, [Side(each, True)], G).error)
    assert measure_noises(ONE, Side(each, True)).rows is None
    same = Design.of_one_split(np.zeros(5, np.int64), 20)
    assert math.isnan(measure_variance(same, [Side(scores(8, 1, 3), True)], 1).error)


def test_the_three_noises_are_those_that_went_in():
    rng = np.random.default_rng(0)
    splits, trainings, resamples = 200, 6, 300
    big = Design(
        groups=np.arange(2000),
        tests=tuple(np.array_split(np.arange(2000), splits)),
        train_rows=(1990,) * splits,
        table_rows=2000,
        resplit="folds",
    )
    rows = rng.normal(0, 0.05, (splits, 1))
    point = 0.5 + rng.normal(0, 0.04, (splits, 1)) + rows + rng.normal(0, 0.03, (splits, trainings))
    drawn = point[..., None] + rng.normal(0, 0.05, (splits, 1, resamples))
    found = measure_noises(big, Side(Rescored(point, drawn), True))
    assert found.rows == pytest.approx(0.05, rel=0.05)
    assert found.training == pytest.approx(0.03, rel=0.08)
    assert found.split == pytest.approx(0.04, rel=0.2)
    assert found.between_splits == pytest.approx(
        math.sqrt(0.05**2 + 0.04**2 + 0.03**2 / 6), rel=0.15
    )
    fixed = measure_noises(ONE, Side(scores(9, 1, 1), False))
    assert (fixed.training, fixed.split) == (0.0, None)
    assert measure_noises(ONE, Side(scores(9, 1, 1), True)).training is None
