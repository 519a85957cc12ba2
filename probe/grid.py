"""The paper's grid: one backbone's features in, the configuration that validation chose out.

Every configuration is trained once a seed and chosen by its mean score over seeds. The test rows
come in only after `search` has returned: see `judge`.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput, NotFinite
from probe.divergence import NOTHING_FINITE, diverged
from probe.halving import halve
from probe.linear import fit_heads
from probe.metrics import rank
from probe.objective import Objective
from probe.stream import Epoch, Trained, predict_rows
from probe.training import (
    LINEAR,
    Config,
    Examples,
    HeadKind,
    LinearConfig,
    TrainingConfig,
    seedless,
    train_heads,
)

if TYPE_CHECKING:
    from embedstore.loaders import FeatureSet

SearchRule = Literal["full", "halving"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Configurations to try: every batch size with every learning rate."""

    batch_sizes: tuple[int, ...] = (16, 32, 64, 128)
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 5e-4, 7e-4, 9e-4)
    epochs: int = 50
    patience: int = 10
    seed: int = 0
    """The first seed of every configuration, and that of the split."""
    seeds: int = 1
    """How often each configuration is trained: with `seed`, `seed` + 1, and so on."""
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "learning_rates"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise BadInput(f"The {name} are {list(values)}.", "Give one or more, each once.")
        if self.seeds < 1:
            raise BadInput(f"The number of seeds is {self.seeds}.", "Give 1 or more.")
        self.configurations()  # refuse bad values before anything is read

    def configurations(self) -> list[TrainingConfig]:
        """Every configuration with every seed; ties are settled in this order."""
        try:
            return [
                TrainingConfig(
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    epochs=self.epochs,
                    patience=self.patience,
                    seed=seed,
                    dropout=self.dropout,
                )
                # what reads the same batches stands together
                for batch_size, seed, learning_rate in itertools.product(
                    self.batch_sizes,
                    range(self.seed, self.seed + self.seeds),
                    self.learning_rates,
                )
            ]
        except ValueError as error:
            raise BadInput(f"The grid has a bad value: {error}.", "Correct the option.") from error

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        fields = asdict(self)
        lists = {"batch_sizes": [*self.batch_sizes], "learning_rates": [*self.learning_rates]}
        return fields | lists


@dataclass(frozen=True)
class Tried:
    """What one configuration came to; its head is gone."""

    config: Config
    validation_score: float
    best_epoch: int
    curve: tuple[Epoch, ...]
    seconds: float
    diverged: bool = False


@dataclass(frozen=True, eq=False)
class Search:
    """Every configuration tried, and the trained heads of the chosen one."""

    seeds: tuple[Trained, ...]
    """Of the chosen configuration, one head a seed."""
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Trained:
        """The head of the first seed."""
        return self.seeds[0]

    @property
    def validation_score(self) -> float:
        """Of the chosen configuration: the mean over seeds."""
        return _mean_score(self.seeds)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What chosen heads did on rows that had no part in making or choosing them."""

    score: float
    """The mean over seeds."""
    predicted: NDArray[Any]
    """As `Objective.decode` gives them, a row for each test row; of several seeds one stack more:
    shape (N,) or (S, N), (N, Q) or (S, N, Q)."""


def search(
    features: FeatureSet,
    train: Examples,
    validation: Examples,
    objective: Objective,
    configurations: Sequence[Config],
    kind: HeadKind = "textcnn",
    rule: SearchRule = "full",
) -> Search:
    """Train every configuration and choose by validation score; an undefined score never wins.

    Configurations that differ in nothing but the seed are one: their mean score counts. Those of
    one batch size and seed train at once; under `halving` only the best are trained to the end.
    Linear heads are fitted one by one.
    No argument holds a test row. Of equal scores the earlier configuration wins.
    A configuration is never chosen where the training of any of its seeds diverged: a mean over
    the other seeds would hide that it does not always work.

    Raises
    ------
    Diverged
        That holds for every configuration.
    """
    tried: list[Tried] = []
    best: list[Trained] = []
    by_setting: dict[Config, list[Trained]] = {}
    seeds = Counter(seedless(one) for one in configurations)
    for one in _train(features, train, validation, objective, configurations, kind, rule):
        tried.append(
            Tried(
                one.config,
                one.validation_score,
                one.best_epoch,
                one.curve,
                one.seconds,
                one.diverged,
            )
        )
        setting = seedless(one.config)
        logger.info(
            "%d/%d %s%s: %s, %.1f s",
            len(tried),
            len(configurations),
            one.config,
            f", seed {one.config.seed}"
            if isinstance(one.config, TrainingConfig) and seeds[setting] > 1
            else "",
            _outcome(one, objective.task.metric),
            one.seconds,
        )
        heads = by_setting.setdefault(setting, [])
        heads.append(one)
        if len(heads) < seeds[setting]:
            continue
        del by_setting[setting]  # heads that were not chosen are let go
        if any(head.diverged for head in heads):
            continue
        if not best or rank(_mean_score(heads)) > rank(_mean_score(best)):
            best = heads
    if not best:
        raise diverged([one.config for one in tried if one.diverged], NOTHING_FINITE)
    return Search(tuple(best), tuple(tried))


def _outcome(one: Trained, metric: str) -> str:
    if one.diverged:
        return "diverged" + (f" in epoch {len(one.curve)}" if one.curve else "")
    epoch = f" at epoch {one.best_epoch} of {len(one.curve)}" if one.curve else ""
    return f"{metric} {one.validation_score:.4f}{epoch}"


def _mean_score(heads: Sequence[Trained]) -> float:
    return float(np.mean([one.validation_score for one in heads]))


def _train(
    features: FeatureSet,
    train: Examples,
    validation: Examples,
    objective: Objective,
    configurations: Sequence[Config],
    kind: HeadKind,
    rule: SearchRule,
) -> Iterator[Trained]:
    if kind in LINEAR:
        penalties = [one for one in configurations if isinstance(one, LinearConfig)]
        yield from fit_heads(features, train, validation, objective, penalties, kind)
        return
    networks = [one for one in configurations if isinstance(one, TrainingConfig)]
    if rule == "halving":
        yield from halve(features, train, validation, objective, networks, kind)
        return
    # bank by bank, so that not all heads are held until the end
    for _, bank in itertools.groupby(networks, key=lambda one: (one.batch_size, one.seed)):
        yield from train_heads(features, train, validation, objective, list(bank), kind)


def judge(chosen: Trained, features: FeatureSet, test: Examples, objective: Objective) -> Judgement:
    """Score the chosen head on the test rows: the only place where a head sees them.

    It takes what `search` returned, so nothing is left to choose when it runs.

    Raises
    ------
    Diverged
        A prediction is not finite.
    """
    try:
        predicted = predict_rows(chosen.head, features, test.rows, objective)
    except NotFinite as error:
        raise diverged(
            [chosen.config], "its predictions for the test rows are not finite"
        ) from error
    return Judgement(objective.score(predicted, test.targets), predicted)


def pool(judged: Sequence[Judgement]) -> Judgement:
    """The judgements of several seeds as one."""
    if len(judged) == 1:
        return judged[0]
    score = float(np.mean([one.score for one in judged]))
    return Judgement(score, np.stack([one.predicted for one in judged]))
