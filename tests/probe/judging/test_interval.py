"""Intervals, p and power: against tables and hand calculations."""

import math

import pytest
from scipy import stats

from probe.judging.interval import detectable, difference_interval, p_of, score_interval
from probe.judging.variance import Variance


def variance(error, freedom=10.0):
    return Variance(error**2, 0.0, freedom)


def test_ends_are_those_of_student():
    # t(0.975, 10) = 2.228
    found = difference_interval(0.1, variance(0.05), 0.05)
    assert (found.low, found.high) == pytest.approx((0.1 - 0.1114, 0.1 + 0.1114), abs=1e-4)
    assert p_of(0.1, variance(0.05)) == pytest.approx(2 * stats.t.sf(2, 10))
    assert p_of(-0.1114069, variance(0.05)) == pytest.approx(0.05, abs=1e-5)


def test_a_correlation_s_interval_is_made_by_fisher_s_z():
    # z = atanh(0.9) = 1.4722, half = 2.2281 * 0.02 / (1 - 0.81) = 0.23454
    found = score_interval(0.9, variance(0.02), "spearman", 0.05, 99)
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(1.23768), math.tanh(1.70676)), abs=1e-4
    )
    assert score_interval(0.99, variance(0.02), "pearson", 0.05, 99).high < 1


def test_a_share_s_interval_stays_between_0_and_1():
    # logit 0.9 = 2.1972, half = 2.2281 * 0.05 / 0.09 = 1.23785
    found = score_interval(0.9, variance(0.05), "accuracy", 0.05, 99)
    assert (found.low, found.high) == pytest.approx((0.72301, 0.96878), abs=1e-4)


def test_all_right_is_no_certainty():
    # Clopper and Pearson for 20 of 20: 0.025^(1/20) = 0.8316
    found = score_interval(1.0, variance(0.0), "accuracy", 0.05, 20)
    assert (found.low, found.high) == pytest.approx((0.8316, 1.0), abs=1e-4)
    assert score_interval(0.0, variance(0.0), "accuracy", 0.05, 20).high == pytest.approx(
        0.1684, abs=1e-4
    )
    assert score_interval(1.0, variance(0.0), "spearman", 0.05, 20).low == 1


def test_undefined_stays_undefined():
    nothing = Variance(math.nan, math.nan, math.nan)
    assert math.isnan(p_of(0.1, nothing)) and math.isnan(detectable(nothing, 0.05, 0.8))
    assert math.isnan(difference_interval(0.1, nothing, 0.05).low)
    assert math.isnan(score_interval(math.nan, variance(0.1), "spearman", 0.05, 9).low)
    assert p_of(0.0, variance(0.0)) == 1
    assert math.isnan(p_of(0.1, variance(0.0)))


def test_the_smallest_difference_is_found_as_often_as_promised():
    found = detectable(variance(0.1, 1e9), 0.05, 0.8)
    assert found == pytest.approx(0.280158, abs=1e-5)  # as by the normal distribution
    # power at that difference by the noncentral t
    few = detectable(variance(0.1, 12), 0.05, 0.8)
    power = stats.nct.sf(stats.t.ppf(0.975, 12), 12, few / 0.1)
    assert power == pytest.approx(0.8, abs=0.02)
    assert detectable(variance(0.1, 12), 0.05, 0.8, comparisons=5) > few
