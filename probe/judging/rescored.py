"""Scores over resamples of groups: every split and training of every head on the same resamples.

Shape letters: B heads, K splits, S trainings, R resamples, G groups, N rows, M values of an output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.judging.design import Design
from probe.judging.predicted import Predicted, columns
from probe.metrics import Metric
from probe.resampled_metrics import COUNTED

_CELLS = 1 << 15  # of resamples x values in memory at once: about a processor's cache


@dataclass(frozen=True, eq=False)
class Rescored:
    """Scores of one head."""

    point: NDArray[np.float64]
    """Shape (K, S): on the test rows themselves, the mean over outputs."""
    drawn: NDArray[np.float64]
    """Shape (K, S, R): on resamples, alike for all heads; nan where a score is undefined."""


def rescore(
    design: Design,
    heads: list[Predicted],
    truth: NDArray[Any],
    metric: Metric,
    *,
    resamples: int,
    seed: int,
) -> list[Rescored]:
    """Score every head on resamples of the groups of all tested rows.

    A group is drawn for all splits at once: a row that several splits test is drawn in all.
    Scores are exact, those of a data set in which each row stands as often as it was drawn.
    """
    splits = range(len(design.tests))
    by_split = [columns(design, heads, truth, at) for at in splits]
    counted = [
        [(COUNTED[metric](mine, true), design.member[rows]) for mine, true, rows in each]
        for each in by_split
    ]
    # the first of them is the rows as they are
    drawn = [np.empty((len(splits), head.trainings, resamples + 1)) for head in heads]
    widest = max(len(true) for each in by_split for _, true, _ in each)
    done = 0
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample without rows of a split
        at_once = max(1, _CELLS // widest)
        as_they_are = np.ones((1, design.group_count))
        for counts in (as_they_are, *draw_groups(design.group_count, resamples, seed, at_once)):
            part = slice(done, done + len(counts))
            for split, outputs in enumerate(counted):
                found = [again(counts[:, member]) for again, member in outputs]
                for at, mine in enumerate(zip(*found, strict=True)):
                    drawn[at][split, :, part] = sum(mine) / len(mine)
            done += len(counts)
    return [Rescored(each[..., 0], each[..., 1:]) for each in drawn]


def draw_groups(
    groups: int, resamples: int, seed: int, at_once: int
) -> Iterator[NDArray[np.float64]]:
    """How often each of G groups is in each resample: float64, shape (some, G), R rows in all."""
    rng = np.random.Generator(np.random.PCG64([seed, groups]))
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, None]
        often = np.bincount(drawn.ravel(), minlength=count * groups)
        yield often.reshape(count, groups).astype(np.float64)
