"""The paper's grid: one backbone's features in, the configuration that validation chose out.

The test rows come in only after `search` has returned: see `judge`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from embedstore.errors import BadInput
from probe.halving import halve
from probe.metrics import rank
from probe.objective import Objective
from probe.stream import Epoch, Trained, predict_rows
from probe.training import Examples, HeadKind, TrainingConfig, train_heads

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
    """Of every configuration, and of the split."""
    dropout: float = 0.2

    def __post_init__(self) -> None:
        for name in ("batch_sizes", "learning_rates"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise BadInput(f"The {name} are {list(values)}.", "Give one or more, each once.")
        self.configurations()  # refuse bad values before anything is read

    def configurations(self) -> list[TrainingConfig]:
        """Every configuration, in the order in which ties are settled."""
        try:
            return [
                TrainingConfig(
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    epochs=self.epochs,
                    patience=self.patience,
                    seed=self.seed,
                    dropout=self.dropout,
                )
                for batch_size, learning_rate in itertools.product(
                    self.batch_sizes, self.learning_rates
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

    config: TrainingConfig
    validation_score: float
    best_epoch: int
    curve: tuple[Epoch, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class Search:
    """Every configuration tried, and the trained head of the chosen one."""

    best: Trained
    tried: tuple[Tried, ...]


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the chosen head did on rows that had no part in making or choosing it."""

    score: float
    predicted: NDArray[Any]
    """As `Objective.decode` gives them, shape (N,)."""


def search(
    features: FeatureSet,
    train: Examples,
    validation: Examples,
    objective: Objective,
    configurations: Sequence[TrainingConfig],
    kind: HeadKind = "textcnn",
    rule: SearchRule = "full",
) -> Search:
    """Train every configuration and choose by validation score; an undefined score never wins.

    Those of one batch size train at once; under `halving` only the best are trained to the end.
    No argument holds a test row. Of equal scores the earlier configuration wins.
    """
    tried: list[Tried] = []
    best: Trained | None = None
    for one in _train(features, train, validation, objective, configurations, kind, rule):
        tried.append(
            Tried(one.config, one.validation_score, one.best_epoch, one.curve, one.seconds)
        )
        logger.info(
            "%d/%d batch size %d, learning rate %g: %s %.4f at epoch %d of %d, %.1f s",
            len(tried),
            len(configurations),
            one.config.batch_size,
            one.config.learning_rate,
            objective.task.metric,
            one.validation_score,
            one.best_epoch,
            len(one.curve),
            one.seconds,
        )
        if best is None or rank(one.validation_score) > rank(best.validation_score):
            best = one
    assert best is not None, "a grid has at least one configuration"
    return Search(best, tuple(tried))


def _train(
    features: FeatureSet,
    train: Examples,
    validation: Examples,
    objective: Objective,
    configurations: Sequence[TrainingConfig],
    kind: HeadKind,
    rule: SearchRule,
) -> Iterator[Trained]:
    if rule == "halving":
        yield from halve(features, train, validation, objective, configurations, kind)
        return
    # bank by bank, so that not all heads are held until the end
    for _, bank in itertools.groupby(configurations, key=lambda one: one.batch_size):
        yield from train_heads(features, train, validation, objective, list(bank), kind)


def judge(chosen: Trained, features: FeatureSet, test: Examples, objective: Objective) -> Judgement:
    """Score the chosen head on the test rows: the only place where a head sees them.

    It takes what `search` returned, so nothing is left to choose when it runs.
    """
    predicted = predict_rows(chosen.head, features, test.rows, objective)
    return Judgement(objective.score(predicted, test.targets), predicted)
