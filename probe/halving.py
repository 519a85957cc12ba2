"""Successive halving: configurations in, each trained as far as its validation score earned out.

After Jamieson and Talwalkar 2016 (arXiv:1502.07943). What is not trained to its end keeps the
curve and the best epoch that it had, so the results read like those of a full grid.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from probe.metrics import rank
from probe.objective import Objective
from probe.stream import Course, Stream, Trained
from probe.training import Config, Examples, HeadKind, TrainingConfig, seedless, share_batches

if TYPE_CHECKING:
    from embedstore.loaders import FeatureSet

FIRST_RUNG = 3
"""Epochs that every configuration gets."""
ETA = 3
"""One of so many goes on from a rung, and the next rung is so many times as far."""

Item = TypeVar("Item")

logger = logging.getLogger(__name__)


def halve(
    features: FeatureSet,
    train: Examples,
    validation: Examples,
    objective: Objective,
    configs: Sequence[TrainingConfig],
    kind: HeadKind = "textcnn",
) -> list[Trained]:
    """Train all for `FIRST_RUNG` epochs, the best third for three times as many, and so on.

    The last one left trains to its end. At a rung the best score so far counts, of equal scores
    the earlier configuration goes on; an undefined score is worse than any other, and a training
    that diverged is worse still. Configurations that differ in nothing but the seed go on or stop
    together, by their mean score. No row but those of training and validation is an argument.

    Returns
    -------
    In the order of the configurations.
    """
    streams: list[Stream] = []
    places: list[int] = []  # of each course of all streams, in the configurations
    for numbers in share_batches(configs):
        group = [configs[number] for number in numbers]
        streams.append(Stream(features, train, validation, objective, group, kind))
        places += numbers
    courses = [course for stream in streams for course in stream.courses]
    by_setting: dict[Config, list[Course]] = {}
    for course in _in_order(places, courses):
        by_setting.setdefault(seedless(course.config), []).append(course)
    racing = list(by_setting.values())
    rung = FIRST_RUNG
    while len(racing) > 1 and rung < max(config.epochs for config in configs):
        for stream in streams:
            stream.advance(rung)
        best_first = sorted(racing, key=_place)
        ahead = best_first[: -(-len(racing) // ETA)]
        logger.info("epoch %d: %d of %d go on", rung, len(ahead), len(racing))
        for course in itertools.chain(*best_first[len(ahead) :]):
            course.stopped = True
        racing = [group for group in racing if group in ahead]
        rung *= ETA
    for stream in streams:
        stream.advance()
    return _in_order(places, [one for stream in streams for one in stream.trained()])


def _place(courses: Sequence[Course]) -> tuple[bool, float]:
    """What sorts the seeds of one configuration among others, best first."""
    score = float(np.mean([course.score for course in courses]))
    return any(course.diverged for course in courses), -rank(score)


def _in_order(places: Sequence[int], items: Sequence[Item]) -> list[Item]:
    by_place = dict(zip(places, items, strict=True))
    return [by_place[place] for place in sorted(by_place)]
