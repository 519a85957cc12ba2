"""The table of metrics: values of scikit-learn and scipy, what is undefined, and resamples."""

import math
import warnings

import numpy as np
import pytest

from probe.metrics import (
    METRICS,
    TABLE,
    auprc,
    auroc,
    constant_prediction,
    kendall,
    mae,
    mean_over_labels,
    ndcg,
    oriented,
    r2,
    rmse,
)
from probe.resampled_metrics import COUNTED, ByLabel


def example(seed, name, classes=2):
    """Truth and predictions with many ties; few rows, so that some scores are undefined."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 30))
    if TABLE[name].kind == "numbers":
        true = rng.integers(-3, 4, rows) * rng.choice([1.0, 1e-6, 1e6])
        return true, true * 0.5 + rng.integers(-2, 3, rows) * np.abs(true).max() / 2
    true = rng.integers(0, classes, rows)
    if not TABLE[name].needs_scores:
        return true, np.where(rng.random(rows) < 0.5, true, rng.integers(0, classes, rows))
    shape = rows if classes == 2 else (rows, classes)
    return true, rng.integers(0, 4, shape) / 4


def reference(name, predicted, true):
    """What scikit-learn or scipy give; nan where they refuse or warn."""
    import scipy.stats
    import sklearn.metrics as sk

    if name in ("spearman", "pearson", "kendall", "mcc", "r2", "ndcg") and len(set(true)) < 2:
        return math.nan
    if name in ("spearman", "pearson", "kendall", "mcc") and len(set(predicted)) < 2:
        return math.nan
    if name == "auroc":
        return sk.roc_auc_score(true, predicted) if 0 < true.mean() < 1 else math.nan
    if name == "auprc":
        return sk.average_precision_score(true, predicted) if true.any() else math.nan
    if name == "ndcg":
        gains = (true - true.min()) / np.ptp(true)
        return sk.ndcg_score([gains], [predicted], k=max(1, len(true) // 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is named and not there
        return {
            "spearman": lambda: scipy.stats.spearmanr(predicted, true).statistic,
            "pearson": lambda: scipy.stats.pearsonr(predicted, true).statistic,
            "kendall": lambda: scipy.stats.kendalltau(predicted, true).statistic,
            "r2": lambda: sk.r2_score(true, predicted),
            "rmse": lambda: sk.root_mean_squared_error(true, predicted),
            "mae": lambda: sk.mean_absolute_error(true, predicted),
            "accuracy": lambda: sk.accuracy_score(true, predicted),
            "balanced-accuracy": lambda: sk.balanced_accuracy_score(true, predicted),
            "macro-f1": lambda: sk.f1_score(true, predicted, average="macro"),
            "mcc": lambda: sk.matthews_corrcoef(true, predicted),
        }[name]()


@pytest.mark.parametrize("name", [*TABLE])
def test_scores_are_those_of_scikit_learn_and_scipy(name):
    undefined = 0
    for seed in range(60):
        classes = 2 if TABLE[name].needs_scores else 2 + seed % 3
        true, predicted = example(seed, name, classes)
        found = TABLE[name].function(predicted, true)
        undefined += math.isnan(found)
        expected = reference(name, predicted, true)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), seed
    assert undefined < 30


@pytest.mark.parametrize("name", [*TABLE])
@pytest.mark.parametrize("classes", [2, 3])
def test_resampled_scores_are_those_of_the_drawn_rows(name, classes):
    for seed in range(12):
        true, predicted = example(seed, name, classes)
        other = np.random.default_rng(seed).permutation(predicted)
        rng = np.random.default_rng(100 + seed)
        counts = rng.multinomial(len(true), np.full(len(true), 1 / len(true)), size=8)
        stack = np.stack([predicted, other])
        first, second = COUNTED[name]([stack, predicted[None]], true)(counts.astype(float))
        expected = [
            [TABLE[name].function(seed.repeat(row, axis=0), true.repeat(row)) for row in counts]
            for seed in stack
        ]
        assert first == pytest.approx(np.array(expected), rel=1e-7, abs=1e-9, nan_ok=True), seed
        assert second == pytest.approx(np.array(expected[:1]), rel=1e-7, abs=1e-9, nan_ok=True)


def test_every_metric_has_a_resampled_form_and_a_place():
    assert [*COUNTED] == [*TABLE]
    assert set(METRICS) < set(TABLE)
    assert {name for name, rule in TABLE.items() if not rule.higher_is_better} == {"rmse", "mae"}
    assert oriented("mae", 2.0) == -2.0
    assert oriented("r2", 0.5) == 0.5


def test_auroc_of_many_classes_is_that_of_scikit_learn():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    true = np.r_[0:4, rng.integers(0, 4, 60)]
    scores = rng.integers(1, 5, (64, 4)).astype(float)
    scores /= scores.sum(axis=1, keepdims=True)
    assert auroc(scores, true) == pytest.approx(roc_auc_score(true, scores, multi_class="ovr"))
    one_hot = np.eye(4)[true]
    assert auprc(scores, true) == pytest.approx(average_precision_score(one_hot, scores))
    few = true < 3  # a class without rows is left out
    expected = np.mean([roc_auc_score(true[few] == at, scores[few, at]) for at in range(3)])
    assert auroc(scores[few], true[few]) == pytest.approx(expected)


def test_ndcg_looks_at_the_top_tenth():
    # by hand: 20 rows, k = 2; gains of the two on top are 18/19 and 19/19 in the wrong order
    true = np.arange(20.0)
    predicted = np.r_[np.zeros(18), 2.0, 1.0]
    expected = (18 / 19 + 1 / np.log2(3)) / (1 + 18 / 19 / np.log2(3))
    assert ndcg(predicted, true) == pytest.approx(expected)
    assert ndcg(true, 5 * true - 3) == pytest.approx(1)
    assert ndcg(-true, true) == pytest.approx(1 / 19 / np.log2(3) / (1 + 18 / 19 / np.log2(3)))


@pytest.mark.parametrize("metric", [r2, rmse, mae, kendall, ndcg])
def test_predictions_that_are_not_finite_have_no_score(metric):
    assert math.isnan(metric(np.array([1.0, math.nan, 2.0]), np.array([1.0, 2.0, 3.0])))
    assert math.isnan(metric(np.array([]), np.array([])))
    with pytest.raises(ValueError, match="shapes differ"):
        metric(np.zeros((3, 1)), np.zeros(3))


def test_scores_that_are_not_finite_have_no_area():
    true = np.array([0, 1])
    for metric in (auroc, auprc):
        assert math.isnan(metric(np.array([0.5, math.inf]), true))
        with pytest.raises(ValueError, match="shapes differ"):
            metric(np.zeros(3), true)
    for name in ("auroc", "auprc", "kendall", "ndcg", "r2", "rmse", "mae"):
        bad = np.array([[0.5, math.nan], [0.1, 0.4]])
        (scores,) = COUNTED[name]([bad], true)(np.ones((3, 2)))
        assert np.isnan(scores[0]).all(), name
        assert not np.isnan(scores[1]).any(), name


def test_labels_are_averaged_where_they_are_defined():
    true = np.array([[1, 0, 1], [0, 0, np.nan], [1, 0, 0], [np.nan, 0, 1]])
    scores = np.array([[0.9, 0.1, 0.2], [0.2, 0.4, 0.9], [0.1, 0.1, 0.3], [0.5, 0.5, 0.4]])
    # label 0: rows 0 to 2, one of two pairs; label 1 has no row of 1; label 2: half of two pairs
    assert mean_over_labels(auroc, scores, true) == pytest.approx((0.5 + 0.5) / 2)
    assert math.isnan(mean_over_labels(auroc, scores[:, 1:2], true[:, 1:2]))
    with pytest.raises(ValueError, match="shapes differ"):
        mean_over_labels(auroc, scores[:2], true)


@pytest.mark.parametrize("name", ["auroc", "auprc", "mcc", "accuracy"])
def test_resampled_labels_are_those_of_the_drawn_rows(name):
    rng = np.random.default_rng(3)
    true = np.where(rng.random((12, 3)) < 0.3, np.nan, rng.integers(0, 2, (12, 3)))
    predicted = rng.integers(0, 2, (2, 12, 3)).astype(float)
    counts = rng.multinomial(4, np.full(12, 1 / 12), size=20)
    (found,) = ByLabel(name, [predicted], true)(counts.astype(float))
    expected = [
        [
            mean_over_labels(
                TABLE[name].function, seed.repeat(row, axis=0), true.repeat(row, axis=0)
            )
            for row in counts
        ]
        for seed in predicted
    ]
    assert found == pytest.approx(np.array(expected), nan_ok=True)


@pytest.mark.parametrize("name", [*TABLE])
def test_no_other_constant_is_better_than_the_baseline(name):
    rng = np.random.default_rng(1)
    rule = TABLE[name]
    train = rng.gamma(2, size=40) if rule.kind == "numbers" else rng.integers(0, 3, 40)
    shape = constant_prediction(name, train, 40, classes=3)
    own = rule.function(shape, train)
    if name in ("spearman", "pearson", "kendall", "mcc"):
        assert math.isnan(own)
        return
    tried = np.linspace(0, 6, 61) if rule.kind == "numbers" else [0, 1, 2]
    others = [rule.function(np.full_like(shape, value), train) for value in tried]
    assert oriented(name, own) >= max(oriented(name, each) for each in others) - 1e-12
    if name == "auroc":
        assert own == 0.5
