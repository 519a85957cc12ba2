"""Intervals, differences and power: against known cases, hand calculations and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.metrics import METRICS
from probe.statistics import _draw_rows as draw_rows
from probe.statistics import (
    bootstrap_interval,
    holm,
    paired_bootstrap,
    resample_scores,
    smallest_detectable_accuracy,
    smallest_detectable_effect,
    smallest_detectable_spearman,
)


def bell(seed, n, noise):
    """Truth and a prediction of it."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=n)
    return true, true + noise * rng.normal(size=n)


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=25),
    grouped=st.booleans(),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("metric", [*METRICS])
def test_scores_are_those_of_the_rows_drawn(metric, values, grouped, seed):
    predicted, true = np.array(values).T
    groups = np.arange(len(true)) // 3 if grouped else None
    found = resample_scores([predicted], true, metric, groups=groups, resamples=7, seed=seed)
    member = np.arange(len(true)) if groups is None else groups
    rng = np.random.Generator(np.random.PCG64([seed, 0]))
    (counts,) = draw_rows(member, 7, rng)
    for score, often in zip(found.scores[0], counts.astype(int), strict=True):
        rows = np.repeat(np.arange(len(true)), often)
        expected = METRICS[metric](predicted[rows].astype(float), true[rows].astype(float))
        assert score == pytest.approx(expected, nan_ok=True)


def test_groups_are_drawn_whole():
    member = np.array([0, 1, 1, 2, 2, 2])
    (counts,) = draw_rows(member, 50, np.random.default_rng(0))
    assert (counts[:, 1] == counts[:, 2]).all() and (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_the_same_seed_gives_the_same_resamples():
    true, predicted = bell(0, 30, 1)
    one, same, other = (
        resample_scores([predicted], true, "spearman", resamples=20, seed=seed).scores
        for seed in (4, 4, 5)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    # bivariate normal with correlation 0.5: Spearman's rho is 6/pi asin(0.25) = 0.4826
    truth, covered = 6 / math.pi * math.asin(0.25), 0
    for seed in range(200):
        true, predicted = bell(seed, 60, math.sqrt(3))
        scores = resample_scores([predicted], true, "spearman", resamples=300, seed=seed).scores
        interval = bootstrap_interval(scores[0])
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 200 <= 0.99  # the standard error of a share of 0.95 is 0.015


def test_an_accuracy_has_the_standard_error_of_a_share():
    true = np.zeros(400, np.int64)
    predicted = (np.arange(400) < 100).astype(np.int64)  # 300 of 400 right
    scores = resample_scores([predicted], true, "accuracy", resamples=4000).scores[0]
    assert scores.std() == pytest.approx(math.sqrt(0.75 * 0.25 / 400), rel=0.06)


def test_copies_of_a_row_add_nothing_when_they_are_drawn_together():
    true, predicted = bell(3, 40, 1)
    copied = [np.repeat(each, 5) for each in (predicted, true)]

    def width(groups):
        scores = resample_scores([copied[0]], copied[1], "spearman", groups=groups, resamples=2000)
        interval = bootstrap_interval(scores.scores[0])
        return interval.high - interval.low

    single = bootstrap_interval(
        resample_scores([predicted], true, "spearman", resamples=2000).scores[0]
    )
    assert width(np.repeat(np.arange(40), 5)) == pytest.approx(single.high - single.low, rel=0.1)
    assert width(None) < 0.6 * (single.high - single.low)  # believes in five times the rows


def test_seeds_that_disagree_widen_the_interval():
    true, predicted = bell(5, 200, 0.5)
    worse = true + 3 * np.random.default_rng(6).normal(size=200)
    same = resample_scores([np.stack([predicted, predicted])], true, "spearman", resamples=1000)
    apart = resample_scores([np.stack([predicted, worse])], true, "spearman", resamples=1000)
    assert apart.point[0] == pytest.approx(
        np.mean([METRICS["spearman"](each, true) for each in (predicted, worse)])
    )
    assert apart.scores[0].std() > 3 * same.scores[0].std()


def test_identical_predictions_do_not_differ():
    true, predicted = bell(1, 50, 1)
    pair = resample_scores([predicted, predicted.copy()], true, "spearman", resamples=500)
    found = paired_bootstrap(pair, 0, 1)
    assert (found.difference, found.p, found.smallest_detectable) == (0, 1, 0)
    assert (found.interval.low, found.interval.high) == (0, 0)


def test_a_clear_difference_is_found_and_has_its_sign():
    true, good = bell(2, 300, 0.5)
    bad = true + 3 * np.random.default_rng(9).normal(size=300)
    pair = resample_scores([good, bad], true, "spearman", resamples=999)
    forth, back = paired_bootstrap(pair, 0, 1), paired_bootstrap(pair, 1, 0)
    assert forth.difference > 0.3
    assert forth.p == back.p == pytest.approx(2 / 1000)  # the smallest that 999 resamples show
    assert (back.interval.low, back.interval.high) == pytest.approx(
        (-forth.interval.high, -forth.interval.low)
    )


def test_pairing_finds_what_separate_intervals_hide():
    true, first = bell(7, 200, 2)
    second = 0.9 * first + 0.1 * true  # nearly the same prediction, a little better
    pair = resample_scores([second, first], true, "spearman", resamples=1000)
    one, other = (bootstrap_interval(each) for each in pair.scores)
    assert one.low < other.high
    assert paired_bootstrap(pair, 0, 1).p < 0.01


def test_two_equally_good_backbones_rarely_differ():
    wrong = 0
    for seed in range(100):
        true, first = bell(seed, 60, 1)
        second = true + np.random.default_rng(seed + 1000).normal(size=60)
        pair = resample_scores([first, second], true, "spearman", resamples=300)
        wrong += paired_bootstrap(pair, 0, 1).p < 0.05
    assert wrong <= 12  # 5 are expected; 12 of 100 has a chance of 0.4 % if it holds


def test_an_undefined_score_has_no_interval_and_no_difference():
    true, predicted = bell(1, 20, 1)
    pair = resample_scores([predicted, np.zeros(20)], true, "spearman", resamples=50)
    assert math.isnan(pair.point[1]) and np.isnan(pair.scores[1]).all()
    assert math.isnan(bootstrap_interval(pair.scores[1]).low)
    assert math.isnan(paired_bootstrap(pair, 0, 1).p)


def test_predictions_that_are_not_finite_have_no_score():
    true, predicted = bell(1, 20, 1)
    predicted[3] = math.nan
    assert np.isnan(resample_scores([predicted], true, "spearman", resamples=5).scores).all()


@pytest.mark.parametrize("predicted", [np.zeros(3), np.zeros((2, 2, 4)), np.zeros((4, 2))])
def test_shapes_that_do_not_fit_are_refused(predicted):
    with pytest.raises(ValueError, match="predictions"):
        resample_scores([predicted], np.arange(4.0), "spearman")
    with pytest.raises(ValueError, match="resamples"):
        resample_scores([np.arange(4.0)], np.arange(4.0), "spearman", resamples=1)


def test_holm_is_the_hand_calculation():
    # sorted 0.01 0.02 0.03 0.04; times 4 3 2 1: 0.04 0.06 0.06 0.04; never falling: last is 0.06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p):
    adjusted = holm(p)
    for raw, mine in zip(p, adjusted, strict=True):
        assert raw <= mine <= min(1, len(p) * raw)
    assert sorted(adjusted) == [adjusted[i] for i in np.argsort(p, kind="stable")]


def test_comparisons_that_could_not_be_made_do_not_count():
    found = holm([0.02, math.nan, 0.01])
    assert found[0] == pytest.approx(0.02) and found[2] == pytest.approx(0.02)
    assert math.isnan(found[1])


def test_the_smallest_effect_is_what_the_power_promises():
    # z(0.975) + z(0.8) = 1.95996 + 0.84162 = 2.80158
    assert smallest_detectable_effect(0.1) == pytest.approx(0.280158, abs=1e-6)
    rng = np.random.default_rng(0)
    found = np.abs(0.280158 + 0.1 * rng.normal(size=20_000)) > 0.195996
    assert found.mean() == pytest.approx(0.80, abs=0.01)
    # among 5 comparisons: z(0.995) = 2.57583
    assert smallest_detectable_effect(0.1, comparisons=5) == pytest.approx(0.341745, abs=1e-6)


def test_the_smallest_correlation_falls_with_the_rows():
    # tanh(2.80158 * sqrt(1.06 / 97)) = tanh(0.292866) = 0.28477
    assert smallest_detectable_spearman(100) == pytest.approx(0.28477, abs=1e-4)
    assert smallest_detectable_spearman(10_000) < 0.03
    assert math.isnan(smallest_detectable_spearman(3))


def test_the_smallest_accuracy_stays_below_one():
    # 2.80158 * sqrt(0.25 / 400) = 0.07004
    assert smallest_detectable_accuracy(400, 0.5) == pytest.approx(0.07004, abs=1e-4)
    assert smallest_detectable_accuracy(5, 0.9) == pytest.approx(0.1)
    assert math.isnan(smallest_detectable_accuracy(0, 0.5))
