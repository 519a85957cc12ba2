"""What a backbone has to beat: a plan in, scores without a trained representation out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.backbones.load import BackboneConfig, prepare
from embedstore.dogma import Unreadable
from embedstore.errors import Diverged
from embedstore.loaders import JoinedReader
from embedstore.records import Record
from probe.grid import Judgement, judge, pool, search
from probe.linear import features_of_means
from probe.metrics import rank
from probe.objective import Objective
from probe.training import LINEAR, Config, Examples

if TYPE_CHECKING:
    from embedstore.backbones.backbone import Backbone
    from embedstore.loaders import FeatureSet
    from probe.plan import Plan

COMPOSITIONS = ("codon-composition", "kmer-composition", "one-hot-protein")
"""Weightless backbones whose mean row is a composition; the first that reads every row is used."""
ONE_HOT = ("one-hot-mrna", "one-hot-protein")
PENALTIES = tuple(10.0**power for power in range(-3, 5))
"""Times the number of training rows."""
_VIEWS_AT_ONCE = 64  # bounds memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Baseline:
    """A predictor without trained representation, chosen on validation like any other."""

    name: str
    settings: dict[str, Any]
    """What was chosen."""
    validation_score: float
    test: Judgement


def run_baselines(plan: Plan, device: str = "cpu") -> tuple[list[Baseline], dict[str, str]]:
    """Composition, and one-hot unless it is among the backbones; needs no stored embedding.

    Parameters
    ----------
    device : where heads are trained

    Returns
    -------
    baselines, skipped
        Those that could be made, and by the name of one that could not the reason.
    """
    found, skipped = [], {}
    train = plan.examples("train").targets
    if plan.task.kind == "per-position" and np.isnan(train).any():
        skipped["composition"] = (
            "a composition gives every row the same number of outputs, and some positions have no "
            "label"
        )
        logger.info("no composition baseline: %s", skipped["composition"])
    else:
        found.append(composition_baseline(plan))
    if not any(name.startswith("one-hot") for name in _backbones(plan)):
        try:
            found.append(one_hot_baseline(plan, device))
        except Diverged as error:
            skipped["one-hot"] = error.problem.removesuffix(".")
            logger.warning("no one-hot baseline: %s", error)
    return found, skipped


def _backbones(plan: Plan) -> Iterator[str]:
    """Short names of the backbones that no join holds."""
    for reader in plan.readers.values():
        if not isinstance(reader, JoinedReader):
            yield reader.recipe.backbone


def composition_baseline(plan: Plan) -> Baseline:
    """Ridge on how often each codon, 3-mer or residue stands in a sequence, and its log length.

    Ridge regression after Hoerl and Kennard (1970), inputs standardised on the training rows;
    classes are regressed as indicators and the largest wins.
    """
    backbone, texts = _first_that_reads(COMPOSITIONS, plan.rows)
    means = [
        backbone.embed(texts[at : at + _VIEWS_AT_ONCE]).mean
        for at in range(0, len(texts), _VIEWS_AT_ONCE)
    ]
    lengths = np.log([[len(text)] for text in texts])
    features = np.concatenate([np.concatenate(means), lengths], axis=1)
    train, validation, test = (plan.examples(part) for part in ("train", "validation", "test"))
    tried = []
    for penalty, outputs in _ridge(features, train, plan.objective):
        predicted = plan.objective.decode(outputs[validation.rows])
        tried.append((plan.objective.score(predicted, validation.targets), penalty, outputs))
    score, penalty, outputs = max(tried, key=lambda one: rank(one[0]))
    predicted = plan.objective.decode(outputs[test.rows])
    judged = Judgement(plan.objective.score(predicted, test.targets), predicted)
    return Baseline(f"{backbone.spec.name}-ridge", {"penalty": penalty}, score, judged)


def one_hot_baseline(plan: Plan, device: str = "cpu") -> Baseline:
    """The run's own grid on the letters themselves, which are made here, not read."""
    from embedstore.loaders import Features

    backbone, texts = _first_that_reads(ONE_HOT, plan.rows)
    place: dict[str, int] = {}
    rows = np.array([place.setdefault(text, len(place)) for text in texts], np.int64)
    letters = backbone.embed(list(place))
    starts = np.cumsum(letters.lengths) - letters.lengths
    features = Features(letters.tokens, starts, letters.lengths, rows, device)
    if plan.head in LINEAR:
        features = features_of_means(letters.mean, rows)
    train, validation = plan.examples("train"), plan.examples("validation")
    logger.info("%s, a baseline:", backbone.spec.name)
    found = search(
        features,
        train,
        validation,
        plan.objective,
        plan.configurations,
        plan.head,
        plan.search,
    )
    test = plan.examples("test")
    judged = pool([judge(one, features, test, plan.objective) for one in found.seeds])
    config = found.best.config.as_json()
    return Baseline(backbone.spec.name, config, found.validation_score, judged)


def judge_shuffled(features: FeatureSet, plan: Plan, config: Config, seed: int = 0) -> Judgement:
    """Train and judge the chosen configuration on labels that are shuffled among the inputs.

    The control task of Hewitt and Liang (2019): rows of one input share a label drawn from all,
    so only memory of inputs that stand in train can score. Where none does, the score is chance.
    (Heads trained on shuffled labels but judged by the true ones do not score 0: features with one
    strong direction give large correlations of either sign.)

    Raises
    ------
    Diverged
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    _, first = np.unique(features.rows, return_index=True)  # a row of each input
    shuffled = rng.permutation(plan.targets[first])[features.rows]
    if plan.objective.by_token:  # what lies behind the end of a sequence has no token
        lengths = features.lengths[features.rows]
        shuffled[np.arange(shuffled.shape[1]) >= lengths[:, None]] = np.nan
    train, validation, test = (Examples(rows, shuffled[rows]) for rows in plan.split.parts.values())
    logger.info("the chosen configuration on shuffled labels:")
    found = search(features, train, validation, plan.objective, [config], plan.head)
    return judge(found.best, features, test, plan.objective)


def _first_that_reads(names: Sequence[str], rows: Sequence[Record]) -> tuple[Backbone, list[str]]:
    """The first of some weightless backbones that reads every row, and what it reads."""
    for name in names:
        backbone = prepare(BackboneConfig(backbone=name)).load()
        try:
            texts = [row.view(backbone.spec.view).text for row in rows]
        except Unreadable:
            continue
        return backbone, texts
    raise AssertionError("the backbones of a run share a view of all rows")


def _ridge(
    features: NDArray[np.float64], train: Examples, objective: Objective
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """For each penalty, a head's outputs for all rows: shape (N, outputs)."""
    seen = features[train.rows]
    spread = seen.std(axis=0)
    x = (features - seen.mean(axis=0)) / np.where(spread > 0, spread, 1)
    values: NDArray[Any] = objective.training_values(train.targets)
    if objective.scale is None:
        values = np.eye(objective.outputs)[values]
    centre = values.mean(axis=0)
    own = x[train.rows]
    eigenvalues, vectors = np.linalg.eigh(own.T @ own)
    towards = vectors.T @ (own.T @ (values - centre))
    for penalty in PENALTIES:
        weights = vectors @ (towards / (eigenvalues.clip(0) + penalty * len(own))[:, None])
        yield penalty, (x @ weights + centre).astype(np.float32)
