"""Scores over resamples are those of the data sets that were drawn, row by row."""

import numpy as np
import pytest

from probe.judging import Design, Predicted
from probe.judging.rescored import draw_groups, rescore
from probe.metrics import METRICS, OF_CLASSES


def by_hand(metric, predicted, true, times):
    """The metric of rows that stand as often as they were drawn, the mean over outputs."""
    scores = []
    for output in range(true.shape[2]):
        mine, theirs = (
            np.repeat(each[..., output], times, axis=0).ravel() for each in (predicted, true)
        )
        there = ~np.isnan(theirs.astype(float))
        scores.append(METRICS[metric](mine[there], theirs[there]))
    return np.mean(scores)


@pytest.mark.parametrize("metric", [*METRICS])
@pytest.mark.parametrize(("positions", "outputs"), [(1, 1), (4, 1), (1, 3), (3, 2)])
def test_every_split_and_training_is_scored_on_the_rows_drawn(metric, positions, outputs):
    rng = np.random.default_rng(positions)
    groups = np.array([3, 3, 5, 8, 8, 8, 9, 10, 11, 12])
    tests = (np.array([0, 1, 2, 5, 9]), np.array([8, 3, 4, 6, 7]), np.array([1, 9, 6, 2, 3]))
    shape = (10, positions, outputs)
    classes = metric in OF_CLASSES
    true = rng.integers(0, 3, shape) if classes else rng.normal(size=shape).round(1)
    if not classes and positions > 1:
        true[rng.random(shape) < 0.2] = np.nan
    heads = {
        name: [rng.integers(0, 3, (trainings, 5, *shape[1:])).astype(true.dtype) for _ in tests]
        for name, trainings in (("a", 2), ("b", 1))
    }

    def squeezed(array, first):
        return array.reshape(*array.shape[:first], *(each for each in shape[1:] if each > 1))

    design = Design(
        groups=groups, tests=tests, train_rows=(20,) * 3, table_rows=30, resplit="repeats",
        outputs=tuple("xyz"[:outputs]), positions=positions,
    )  # fmt: skip
    predicted = [
        Predicted(name, tuple(squeezed(each, 2) for each in splits))
        for name, splits in heads.items()
    ]
    found = rescore(design, predicted, squeezed(true, 1), metric, resamples=3, seed=4)
    counts = np.concatenate(list(draw_groups(7, 3, 4, 10)))
    assert (counts.sum(axis=1) == 7).all()
    times = counts[:, np.unique(groups, return_inverse=True)[1]].astype(int)
    for each, splits in zip(found, heads.values(), strict=True):
        for k, (test, mine) in enumerate(zip(tests, splits, strict=True)):
            for s in range(len(mine)):
                expected = by_hand(metric, mine[s], true[test], np.ones(5, int))
                assert each.point[k, s] == pytest.approx(expected, nan_ok=True)
                for r in range(3):
                    expected = by_hand(metric, mine[s], true[test], times[r, test])
                    assert each.drawn[k, s, r] == pytest.approx(expected, nan_ok=True)


def test_resamples_do_not_depend_on_how_many_are_made_at_once():
    one, other = (np.concatenate(list(draw_groups(9, 20, 1, at_once))) for at_once in (20, 3))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("splits", "truth", "problem"),
    [
        ((np.zeros((1, 4)),), np.zeros(5), "truth of"),
        ((np.zeros((1, 5)),), np.zeros(4), "predictions of"),
        ((np.zeros(4),), np.zeros(4), "predictions of"),
        ((np.zeros((1, 4)),) * 2, np.zeros(4), "2 splits of 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(splits, truth, problem):
    from probe.judging import resample

    design = Design.of_one_split(np.arange(4), 10)
    with pytest.raises(ValueError, match=problem):
        resample(design, [Predicted("a", splits)], truth, "spearman")
    with pytest.raises(ValueError, match="distinct"):
        resample(design, [], np.zeros(4), "spearman")
    with pytest.raises(ValueError, match="no seeds"):
        resample(design, [Predicted("a", (np.zeros((2, 4)),), False)], np.zeros(4), "spearman")
