"""The smallest backbone within a margin: hand-made pairs, and a test set that cannot say."""

import math

import pytest

from probe.judging import Judged, Pair, find_smallest
from probe.judging.interval import difference_interval, p_of
from probe.judging.variance import Variance

SIZES = {"150M": 150.0, "8M": 8.0, "35M": 35.0}
NORMAL = 1e9  # degrees of freedom


def judged(scores, error, others=0.0, verdict="no detectable difference"):
    """All pairs of backbones with these scores and one standard error."""
    variance = Variance(error**2 - others, others, NORMAL)
    names = list(scores)
    pairs = []
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            difference = scores[first] - scores[second]
            pairs.append(
                Pair(
                    first=first, second=second, difference=difference,
                    interval=difference_interval(difference, variance, 0.05),
                    p=p_of(difference, variance), p_holm=math.nan, smallest_detectable=math.nan,
                    variance=variance, claim="backbones", scope="any split", verdict=verdict,
                    reason=None,
                )
            )  # fmt: skip
    return Judged(
        metric="spearman", level=0.05, resamples=9, resampled="the 200 test rows", rows=200,
        groups=200, effective_groups=200.0, scores=(), pairs=tuple(pairs),
    )  # fmt: skip


def test_a_small_one_that_is_shown_to_be_close_is_named():
    # 0.49 against 0.5 and 0.5: -0.01 - 1.96 * 0.01 = -0.0296 > -0.05
    found = find_smallest(judged({"8M": 0.49, "35M": 0.5, "150M": 0.5}, 0.01), SIZES)
    assert found.name == "8M"
    small = found.candidates[0]
    assert (small.name, small.state) == ("8M", "within")
    assert small.bound == pytest.approx(-0.0296, abs=1e-4)
    assert "8M is the smallest that is not worse by more than 0.05" in found.words


def test_no_detectable_difference_is_not_enough():
    found = find_smallest(judged({"8M": 0.49, "35M": 0.5, "150M": 0.5}, 0.04), SIZES)
    assert found.name is None
    small = found.candidates[0]
    assert small.state == "cannot say"
    # (1.95996 + 0.84162) * e = 0.05: e = 0.017847; 200 * (0.04 / 0.017847)^2 = 1004.7
    assert small.groups_needed == 1005
    assert "8M: this test set cannot say; about 1,005 rows would" in found.words


def test_one_that_is_worse_by_more_than_the_margin_is_passed_over():
    found = find_smallest(judged({"8M": 0.40, "35M": 0.5, "150M": 0.5}, 0.01), SIZES)
    assert [each.state for each in found.candidates] == ["worse", "within", "within"]
    assert found.name == "35M"
    assert found.words == "35M is the smallest that is not worse by more than 0.05."


def test_it_must_hold_against_every_other_not_only_the_best_seen():
    found = find_smallest(judged({"8M": 0.48, "35M": 0.52, "150M": 0.5}, 0.012), SIZES)
    # against 150M: -0.02 - 0.0235 = -0.0435; against 35M: -0.04 - 0.0235 = -0.0635
    assert (found.candidates[0].state, found.candidates[0].against) == ("cannot say", "35M")
    assert found.name == "35M"


def test_rows_do_not_help_against_the_noise_of_training():
    found = find_smallest(judged({"8M": 0.5, "35M": 0.5, "150M": 0.5}, 0.04, 0.03**2), SIZES)
    assert found.candidates[0].groups_needed is None
    assert "more trainings or splits" in found.words


def test_withheld_pairs_name_nobody():
    found = find_smallest(
        judged({"8M": 0.5, "35M": 0.5, "150M": 0.5}, 0.01, verdict="withheld"), SIZES
    )
    assert found.name is None and found.candidates[0].state == "withheld"
    assert found.document()["candidates"][0]["bound"] is None


def test_a_margin_and_two_backbones_are_needed():
    pairs = judged({"8M": 0.5, "35M": 0.5}, 0.01)
    assert find_smallest(pairs, {"8M": 8, "35M": 35}).name == "8M"
    for sizes, margin in (({"8M": 8.0}, 0.05), ({"8M": 8.0, "35M": 35.0}, 0.0)):
        with pytest.raises(ValueError, match="margin"):
            find_smallest(pairs, sizes, margin=margin)
    with pytest.raises(ValueError, match="not compared"):
        find_smallest(pairs, SIZES)
