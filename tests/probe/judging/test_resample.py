"""What a design allows to say: claims, withheld verdicts, and what must not matter."""

import json
import math

import numpy as np
import pytest

from probe.judging import Design, Predicted, resample, resamples_within
from probe.metrics import METRICS


def noisy(seed, true, noise, trainings=1):
    return true + noise * np.random.default_rng(seed).normal(size=(trainings, *true.shape))


def bell(seed, n):
    return np.random.default_rng(seed).normal(size=n)


def test_one_training_is_a_statement_about_heads():
    true = bell(0, 100)
    design = Design.of_one_split(np.arange(100), 400)
    for trainings, claim in ((1, "heads"), (2, "heads"), (3, "backbones")):
        heads = [Predicted(name, (noisy(at, true, 1, trainings),)) for at, name in enumerate("ab")]
        found = resample(design, heads, true, "spearman", resamples=50)
        (pair,) = found.pairs
        assert (pair.claim, pair.scope) == (claim, "this split")
        assert {each.claim for each in found.scores} == {claim}
        assert pair.reason is not None and ("trained heads" in pair.reason) == (claim == "heads")


def test_heads_without_seeds_speak_of_their_split_and_folds_of_any():
    true = bell(1, 90)
    one = Design.of_one_split(np.arange(90), 400)
    heads = [
        Predicted(name, (noisy(at, true, 1),), has_seeds=False) for at, name in enumerate("ab")
    ]
    (pair,) = resample(one, heads, true, "spearman", resamples=50).pairs
    assert (pair.claim, pair.scope) == ("backbones", "this split")
    folds = Design(
        groups=np.arange(90), tests=tuple(np.arange(90).reshape(3, 30)), train_rows=(30,) * 3,
        table_rows=90, resplit="folds",
    )  # fmt: skip
    split = [Predicted(h.name, tuple(h.splits[0][:, test] for test in folds.tests)) for h in heads]
    (pair,) = resample(folds, split, true, "spearman", resamples=50).pairs
    assert (pair.claim, pair.scope, pair.reason) == ("backbones", "any split", None)


def test_few_groups_withhold_the_verdict_and_say_so():
    true = bell(2, 90)
    heads = [
        Predicted("a", (noisy(0, true, 0.1),), False),
        Predicted("b", (noisy(1, true, 9),), False),
    ]
    few = resample(
        Design.of_one_split(np.arange(90) // 10, 400), heads, true, "spearman", resamples=50
    )
    (pair,) = few.pairs
    assert pair.verdict == "withheld" and math.isnan(pair.p) and "9.0 independent" in pair.reason
    assert "9.0 independent" in few.scores[0].reason
    more = resample(
        Design.of_one_split(np.arange(90) // 9, 400), heads, true, "spearman", resamples=50
    )
    assert more.pairs[0].verdict == "first higher"


def test_classes_that_differ_in_few_groups_withhold_the_verdict():
    true = np.arange(60) % 3
    first = true.copy()[None]
    design = Design.of_one_split(np.arange(60), 300)
    for wrong, verdict in ((0, "no detectable difference"), (9, "withheld"), (12, "first higher")):
        second = first.copy()
        second[0, :wrong] = (second[0, :wrong] + 1) % 3
        heads = [Predicted("a", (first,), False), Predicted("b", (second,), False)]
        (pair,) = resample(design, heads, true, "accuracy", resamples=400).pairs
        assert pair.verdict == verdict
        assert pair.difference == pytest.approx(wrong / 60)
        if not wrong:
            assert (pair.p, pair.interval.low, pair.interval.high) == (1, 0, 0)


def test_other_wrong_classes_are_no_difference_of_accuracy():
    true = np.zeros(60, np.int64)
    first, second = np.zeros((2, 1, 60), np.int64)
    first[0, :20], second[0, :20] = 1, 2  # wrong in the same rows
    second[0, 20:25] = 1
    heads = [Predicted("a", (first,), False), Predicted("b", (second,), False)]
    design = Design.of_one_split(np.arange(60), 300)
    (pair,) = resample(design, heads, true, "accuracy", resamples=50).pairs
    assert pair.verdict == "withheld" and "in 5 groups" in pair.reason
    (pair,) = resample(design, heads, true, "macro-f1", resamples=50).pairs
    assert pair.verdict != "withheld"


def test_few_rows_that_carry_pearson_s_correlation_withhold_the_verdict():
    labels = np.exp(2 * bell(11, 100))  # its largest 3 have most of the squared deviations
    square = (labels - labels.mean()) ** 2
    carrying = square.sum() ** 2 / (square**2).sum()
    assert carrying < 10
    heads = [Predicted(name, (noisy(at, labels, 1),), False) for at, name in enumerate("ab")]
    design = Design.of_one_split(np.arange(100), 400)
    found = resample(design, heads, labels, "pearson", resamples=50)
    assert found.pairs[0].verdict == "withheld"
    assert f"{carrying:.1f} groups" in found.pairs[0].reason == found.scores[0].reason
    assert resample(design, heads, labels, "spearman", resamples=50).pairs[0].verdict != "withheld"


def test_outputs_of_different_units_are_not_put_together():
    true = np.stack([bell(3, 120), 1000 + 50 * bell(4, 120)], axis=1)
    good = noisy(5, true, np.array([0.3, 15]))
    bad = noisy(6, true, np.array([2.0, 100]))
    design = Design.of_one_split(np.arange(120), 500, outputs=("x", "y"))
    heads = [Predicted("good", (good,), False), Predicted("bad", (bad,), False)]
    found = resample(design, heads, true, "spearman", resamples=200)
    for head, mine in (("good", good), ("bad", bad)):
        expected = np.mean([METRICS["spearman"](mine[0, :, at], true[:, at]) for at in (0, 1)])
        assert found.score(head).score == pytest.approx(expected)
    # flattened, nearly all of the correlation would be that of the units
    flat = [METRICS["spearman"](each.ravel(), true.ravel()) for each in (good, bad)]
    assert found.pair("good", "bad").difference > 0.4 > 2 * (flat[0] - flat[1])


def test_the_order_of_rows_and_heads_does_not_matter():
    true = bell(7, 80)
    groups = np.arange(80) // 2
    heads = [Predicted(name, (noisy(at, true, 1 + at, 3),)) for at, name in enumerate("abc")]
    design = Design.of_one_split(groups, 300)
    one = resample(design, heads, true, "spearman", resamples=100)
    order = np.random.default_rng(0).permutation(80)
    moved = [Predicted(h.name, (h.splits[0][:, order],)) for h in heads[::-1]]
    other = resample(
        Design.of_one_split(groups[order], 300), moved, true[order], "spearman", resamples=100
    )
    for name in "abc":
        assert one.score(name).interval.low == pytest.approx(other.score(name).interval.low)
    for a, b in ("ab", "ac", "bc"):
        mine, theirs = one.pair(a, b), other.pair(b, a)
        assert mine.difference == pytest.approx(-theirs.difference)
        assert mine.interval.low == pytest.approx(-theirs.interval.high)
        assert (mine.p, mine.p_holm) == pytest.approx((theirs.p, theirs.p_holm))


def test_only_the_pairs_asked_for_are_a_family():
    true = bell(8, 60)
    heads = [Predicted(name, (noisy(at, true, 1),), False) for at, name in enumerate("abc")]
    design = Design.of_one_split(np.arange(60), 300)
    every = resample(design, heads, true, "pearson", resamples=100)
    one = resample(design, heads, true, "pearson", resamples=100, pairs=[("c", "a")])
    assert len(every.pairs) == 3 and len(one.pairs) == 1
    assert one.pairs[0].p == one.pairs[0].p_holm == pytest.approx(every.pair("a", "c").p)
    assert one.pairs[0].smallest_detectable < every.pair("a", "c").smallest_detectable


def test_a_constant_prediction_is_undefined_and_the_document_is_json():
    true = bell(9, 40)
    heads = [Predicted("a", (true[None],), False), Predicted("b", (np.zeros((1, 40)),), False)]
    found = resample(Design.of_one_split(np.arange(40), 99), heads, true, "spearman", resamples=50)
    assert found.pairs[0].verdict == "undefined"
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["pairs"][0]["p"] is None
    assert document["scores"][1]["score"] is None and document["scores"][0]["interval"] == [1, 1]
    assert document["groups"] == document["rows"] == 40


def test_work_bounds_the_resamples():
    assert resamples_within(10_000) == 2_000
    assert resamples_within(10**6) == 1_000
    assert resamples_within(10**9) == 400


def test_more_trainings_narrow_the_interval_until_rows_are_what_is_left():
    true = bell(10, 150)
    spread = np.random.default_rng(1).normal(0.8, 0.25, 24)[:, None]
    mine = spread * true + np.random.default_rng(2).normal(size=(24, 150))
    design = Design.of_one_split(np.arange(150), 600)

    def width(trainings):
        heads = [Predicted("a", (mine[:trainings],))]
        interval = resample(design, heads, true, "spearman", resamples=150).scores[0].interval
        return interval.high - interval.low

    assert width(3) > 1.2 * width(8) > 1.2 * width(24)
