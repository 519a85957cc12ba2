"""Prediction intervals: the quantile by hand, and coverage of simulated rows."""

import math

import numpy as np
import pytest

from probe.judging.conformal import (
    coverage,
    fewest_groups,
    half_width,
    half_width_of_all,
    half_width_of_positions,
    half_widths,
)


def test_the_quantile_counts_the_new_row_too():
    # ceil((19 + 1) * 0.9) = 18: the 18th smallest of 19
    residuals = np.random.default_rng(0).permutation(np.arange(1.0, 20)) * np.tile([1, -1], 10)[:19]
    assert half_width(residuals, 0.1).value == 18
    assert half_width(residuals, 0.05).value == 19  # (19 + 1) * 0.95 = 19, not 20
    assert half_width(np.r_[residuals, math.nan], 0.05).rows == 19


@pytest.mark.parametrize(("level", "least"), [(0.05, 19), (0.1, 9), (0.2, 4), (0.01, 99)])
def test_too_few_rows_have_no_interval_and_say_why(level, least):
    assert fewest_groups(level) == least
    assert half_width(np.ones(least), level).value == 1
    none = half_width(np.ones(least - 1), level)
    assert math.isnan(none.value)
    assert f"{least - 1} validation rows are too few" in none.reason
    assert f"{least} are needed" in none.reason
    grouped = half_width(np.ones(500), level, np.arange(500) % (least - 1))
    assert f"{least - 1} groups of validation rows are too few" in grouped.reason


def test_groups_of_one_row_give_the_plain_rule():
    rng = np.random.default_rng(1)
    for rows in (19, 20, 37, 100, 399):
        residuals = rng.normal(size=rows)
        for level in (0.05, 0.1, 0.32):
            plain = half_width(residuals, level).value
            rank = math.ceil(round((rows + 1) * (1 - level), 9))
            assert plain == np.sort(np.abs(residuals))[rank - 1]
            assert half_width(residuals, level, rng.permutation(rows)).value == plain


def test_new_rows_are_covered_as_often_as_promised():
    # exchangeable rows: coverage over validation sets is ceil((n + 1) * 0.9) / (n + 1)
    rng = np.random.default_rng(2)
    for rows in (9, 15, 50):
        found = []
        for _ in range(2000):
            drawn = rng.standard_t(2, rows + 20)
            width = half_width(drawn[:rows], 0.1).value
            found.append(coverage(np.zeros(20), drawn[rows:], width).share)
        expected = math.ceil(round((rows + 1) * 0.9, 9)) / (rows + 1)
        # 2,000 sets: standard error at most 0.0025
        assert np.mean(found) == pytest.approx(expected, abs=0.008)


def test_rows_of_new_groups_are_covered_only_if_groups_are_given():
    rng = np.random.default_rng(3)
    plain, grouped = [], []
    for _ in range(600):
        sizes = np.array([40, *[2] * 11])  # one family that outweighs all others
        family = np.repeat(np.arange(12), sizes)
        drawn = rng.standard_t(3, 12)[family] + 0.1 * rng.normal(size=len(family))
        new = rng.standard_t(3, 20) + 0.1 * rng.normal(size=20)
        for found, groups in ((plain, None), (grouped, family)):
            found.append(coverage(np.zeros(20), new, half_width(drawn, 0.1, groups).value).share)
    assert np.mean(grouped) > 0.9 - 0.015
    assert np.mean(plain) < 0.85


def test_outputs_have_widths_of_their_own_and_one_together():
    rng = np.random.default_rng(4)
    scale = np.array([1.0, 10.0, 100.0])
    each, together = [], []
    for _ in range(400):
        drawn = rng.normal(size=(139, 3)) * scale
        drawn[:5, 0] = np.nan
        widths = [one.value for one in half_widths(drawn[:39], 0.1)]
        each.append(coverage(np.zeros((100, 3)), drawn[39:], np.array(widths)).share)
        all_at_once = half_width_of_all(drawn[:39], 0.1, scale=scale).value * scale
        inside = np.abs(drawn[39:]) <= all_at_once
        together.append(inside.all(axis=1).mean())
    assert np.mean(each) == pytest.approx(0.9, abs=0.015)
    assert np.mean(together) == pytest.approx(0.9, abs=0.015)
    drawn[:, 1] = np.nan
    widths = half_widths(drawn[:39], 0.1)
    assert widths[1].reason is not None
    assert widths[0].reason is widths[2].reason is None


def test_positions_of_a_row_count_as_one():
    residuals = np.full((12, 30), np.nan)
    residuals[:, :3] = 1
    residuals[0] = 50  # a long row with large errors outweighs the others position by position
    width = half_width_of_positions(residuals, 0.2)
    assert (width.value, width.groups, width.rows) == (1, 12, 63)
    assert half_width(residuals.ravel(), 0.2).value == 50
    assert half_width_of_positions(residuals[:3], 0.2).reason is not None


def test_what_is_not_finite_or_does_not_fit_has_no_interval():
    assert "not finite" in half_width(np.r_[np.ones(30), np.inf]).reason
    assert coverage(np.zeros(3), np.array([0, 1, np.nan]), math.nan).covered == 0
    assert math.isnan(coverage(np.zeros(0), np.zeros(0), 1.0).share)
    with pytest.raises(ValueError, match="level"):
        half_width(np.ones(30), 0.0)
    with pytest.raises(ValueError, match="one output"):
        half_width(np.ones((30, 2)))
    with pytest.raises(ValueError, match="shapes differ"):
        coverage(np.zeros(3), np.zeros(2), 1.0)
