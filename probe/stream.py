"""One stream of batches that several heads share: configurations in, their best epochs out."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import NotFinite
from embedstore.loaders.packing import cut_lengths
from probe.batches import bank_outputs
from probe.divergence import all_finite, finite_rows
from probe.metrics import rank
from probe.objective import Objective
from probe.position_labels import (
    HALO,
    check_reach,
    first_positions,
    tokens_needed,
    values_of_tokens,
)

if TYPE_CHECKING:
    from embedstore.loaders import FeatureSet
    from probe.bank import Head
    from probe.training import Config, Examples, HeadKind, TrainingConfig


@dataclass(frozen=True)
class Epoch:
    """One point of the learning curve."""

    train_loss: float
    """Mean over the training labels, dropout on: squared error of standardised targets, or cross
    entropy in nats, by class weights where classes are balanced."""
    validation_score: float
    """The task's metric; nan where it is undefined, or a prediction was not finite."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A head as it was after its best epoch."""

    config: Config
    head: Head
    best_epoch: int
    """Counted from 1; 0 of a head that is not trained in epochs."""
    validation_score: float
    curve: tuple[Epoch, ...]
    seconds: float
    """Wall time; heads that train together share theirs evenly."""
    diverged: bool = False
    """Whether training ended in values that are not finite before any epoch was worth keeping;
    the head is then of no use. See `probe.divergence`."""


class Stream:
    """Training of several configurations on one stream of batches, as far as it was asked for."""

    def __init__(
        self,
        features: FeatureSet,
        train: Examples,
        validation: Examples,
        objective: Objective,
        configs: Sequence[TrainingConfig],
        kind: HeadKind = "textcnn",
    ) -> None:
        """Make every head as its seed makes it.

        Parameters
        ----------
        features, train, validation, objective : as in `train_heads`
        configs : of one batch size and one seed
        """
        import torch

        from probe.bank import Bank
        from probe.heads import make_head

        ((self._batch_size, seed),) = {(each.batch_size, each.seed) for each in configs}
        self._features, self._objective = features, objective
        self._train, self._validation = train, validation
        self._values = objective.training_values(train.targets)
        self._order = np.random.Generator(np.random.PCG64(seed))
        heads: list[Head] = []
        with torch.random.fork_rng(devices=[]):
            for _ in configs:
                torch.default_generator.manual_seed(seed)
                head = make_head(kind, features.width, objective.outputs)
                heads.append(head.to(features.device))
            # dropout draws on from where the start ended, as in a training of one head
            start = torch.default_generator.get_state()
        weights = None if objective.weights is None else torch.tensor(objective.weights)
        self._bank = Bank(heads, configs, start, weights)
        self._keep: NDArray[np.int64] | None = None
        if objective.by_token:
            check_reach(features, train, validation)
            self._keep = tokens_needed(train.targets)
        self.courses = [Course(*each) for each in zip(configs, heads, strict=True)]
        """What each configuration has come to, in their order."""
        self._epochs = 0

    def advance(self, epochs: int | None = None) -> None:
        """Train on to the end of an epoch, counted from 1; None: until every head has stopped."""
        while self._live() and (epochs is None or self._epochs < epochs):
            began = time.perf_counter()
            self._epochs += 1
            live = self._live()
            losses = self._one_epoch(live)
            predicted = _predict(
                [self.courses[number].head for number in live],
                self._features,
                self._validation.rows,
                self._objective,
            )
            scores = [
                # of classes a score could be had: argmax takes nan for the largest
                self._objective.score(each, self._validation.targets) if finite else math.nan
                for each, finite in predicted
            ]
            seconds = (time.perf_counter() - began) / len(live)
            for number, loss, score, (_, finite) in zip(
                live, losses, scores, predicted, strict=True
            ):
                course = self.courses[number]
                finite = finite and all_finite(course.head.state_dict().values())
                course.record(Epoch(loss, score), seconds, finite=finite)

    def trained(self) -> list[Trained]:
        """Every configuration as after its best epoch so far; the stream has come to its end."""
        return [course.finish() for course in self.courses]

    def _live(self) -> list[int]:
        return [number for number, course in enumerate(self.courses) if not course.stopped]

    def _one_epoch(self, live: Sequence[int]) -> list[float]:
        """Step through all training rows in a new order; each live head's mean loss."""
        import torch

        rows, objective = self._train.rows, self._objective
        totals, count = np.zeros(len(live)), 0
        batches = self._features.batches(rows, self._batch_size, self._order, self._keep)
        for batch, tokens, lengths in batches:
            values = self._values[batch]
            if objective.by_token:
                values = values_of_tokens(values, lengths.cpu().numpy())
            own = torch.from_numpy(values).to(tokens.device)
            losses = self._bank.step(live, tokens, lengths, own)
            weight = len(batch) if values.ndim == 1 else int((~np.isnan(values)).sum())
            totals += np.array(losses) * weight
            count += weight
        mean: list[float] = (totals / count).tolist()
        return mean


@dataclass(eq=False)
class Course:
    """One configuration in training: its learning curve, and its best epoch so far."""

    config: TrainingConfig
    head: Head
    curve: list[Epoch] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False
    best: int = 0
    """Epoch, counted from 1; 0 where none has left finite values."""
    kept: dict[str, Any] = field(default_factory=dict)
    """The weights after the best epoch."""
    broken: bool = False
    """Whether the last epoch left a loss, weights or predictions that are not finite."""

    @property
    def score(self) -> float:
        """Of the best epoch; nan where there is none."""
        return self.curve[self.best - 1].validation_score if self.best else math.nan

    @property
    def diverged(self) -> bool:
        """Whether training broke before an epoch had a score.

        A head that was good before is kept as it was then.
        """
        return self.broken and math.isnan(self.score)

    def record(self, epoch: Epoch, seconds: float, *, finite: bool = True) -> None:
        """Add an epoch, keep the weights if it is the best, and see whether training goes on.

        Parameters
        ----------
        finite : whether all weights and all predictions for the validation rows are
        """
        self.curve.append(epoch)
        self.seconds += seconds
        self.broken = not (finite and math.isfinite(epoch.train_loss))
        if not self.broken and (self.best == 0 or rank(epoch.validation_score) > rank(self.score)):
            self.best, self.kept = len(self.curve), copy.deepcopy(self.head.state_dict())
        self.stopped = (
            len(self.curve) >= self.config.epochs
            or len(self.curve) - self.best >= self.config.patience
            or self.broken  # no further step can bring the weights back
        )

    def finish(self) -> Trained:
        """The head, back at its best epoch."""
        if self.best:
            self.head.load_state_dict(self.kept)
        self.head.zero_grad(set_to_none=True)
        return Trained(
            config=self.config,
            head=self.head.eval(),
            best_epoch=self.best,
            validation_score=self.score,
            curve=tuple(self.curve),
            seconds=self.seconds,
            diverged=self.diverged,
        )


def predict_rows(
    head: Head, features: FeatureSet, rows: NDArray[np.int64], objective: Objective
) -> NDArray[Any]:
    """Predictions for rows of the features, as `Objective.decode` gives them.

    By token for the P positions of the objective alone, nan behind the end of a sequence. Each
    distinct input runs once, so rows that share an embedding share their prediction.

    Raises
    ------
    NotFinite
        An output of the head is not finite.
    """
    ((predicted, finite),) = _predict([head], features, rows, objective)
    if not finite:
        raise NotFinite(
            f"The {head.kind} head gives values that are not finite.",
            "Train it again with a lower learning rate.",
        )
    return predicted


def _predict(
    heads: Sequence[Head], features: FeatureSet, rows: NDArray[np.int64], objective: Objective
) -> list[tuple[NDArray[Any], bool]]:
    """Predictions of each head as in `predict_rows`, and whether all its outputs are finite."""
    distinct, inverse = np.unique(features.rows[rows], return_inverse=True)
    keep = None
    if objective.by_token and objective.positions is not None:
        keep = np.full(len(distinct), objective.positions + HALO)
    outputs = bank_outputs(heads, features, distinct, keep)
    lengths = cut_lengths(features.lengths[distinct], keep) if objective.by_token else None
    finite = [bool(finite_rows(each, lengths).all()) for each in outputs]
    if objective.by_token and objective.positions is not None:
        outputs = first_positions(outputs, objective.positions)
    predicted = [objective.decode(each)[inverse] for each in outputs]
    return list(zip(predicted, finite, strict=True))
