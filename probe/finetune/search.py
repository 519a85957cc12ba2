"""Every configuration of a fine-tuning run in turn: a plan in, the chosen weights out.

What is done is kept in a work folder, so a killed run goes on from its last epoch. The test rows
have no part in it.
"""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedstore.build.progress import Progress
from embedstore.errors import BadWeights
from probe.divergence import NOTHING_FINITE, diverged, not_finite_in
from probe.documents import or_none, read_json, write_json
from probe.finetune.adapters import prepare_to_learn
from probe.finetune.checkpoint import (
    check_file,
    crc32c_of,
    curve_as_json,
    epochs_of,
    forget_epochs,
    keep_best,
    resume,
    save_epoch,
)
from probe.finetune.documents import DoneDocument
from probe.finetune.live import LiveModel
from probe.finetune.method import FinetuneConfig
from probe.finetune.pace import Pace
from probe.finetune.plan import FinetunePlan
from probe.finetune.training import FineTuning, make_head
from probe.finetune.workers import Workers
from probe.metrics import rank
from probe.peak import peak_bytes, reset_peak
from probe.stream import Epoch

_DONE = "done.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """What one configuration came to."""

    config: FinetuneConfig
    validation_score: float
    best_epoch: int
    curve: tuple[Epoch, ...]
    seconds: float
    parameters_trained: int
    """In backbone and head."""
    peak_bytes: int
    """On a GPU the most that was allocated, elsewhere the largest the process was."""
    values: Path
    """Those of the best epoch; no file where training diverged."""
    diverged: bool = False

    def as_json(self) -> dict[str, Any]:
        """An entry of `configurations` in `results.json`."""
        config = self.config
        return {
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "backbone_learning_rate": config.backbone_learning_rate,
            "rank": config.rank,
            "alpha": config.alpha,
            "seed": config.seed,
            "validation_score": or_none(self.validation_score),
            "best_epoch": self.best_epoch or None,
            "seconds": round(self.seconds, 3),
            "parameters_trained": self.parameters_trained,
            "peak_bytes": self.peak_bytes,
            "curve": curve_as_json(list(self.curve)),
            **({"diverged": True} if self.diverged else {}),
        }


def mean_score(seeds: list[Tuned]) -> float:
    """On validation; nan where that of one seed is."""
    return math.fsum(one.validation_score for one in seeds) / len(seeds)


class Search:
    """The trainings of one plan in one work folder."""

    def __init__(
        self, plan: FinetunePlan, folder: Path, workers: Workers, *, quiet: bool = False
    ) -> None:
        self.plan, self.folder, self.workers = plan, folder, workers
        self.quiet = quiet or not workers.first
        self.views = plan.views
        self._pace = Pace(plan.batch_tokens)

    def choose(self, configs: list[FinetuneConfig]) -> tuple[list[Tuned], list[Tuned]]:
        """Train every configuration; every seed of the best on validation, and all that was tried.

        The best has the highest mean over its seeds; of equals the earlier. Seeds of one
        configuration stand together in `configs`. One with a seed that diverged is never the best.

        Raises
        ------
        Diverged
            There is no other.
        """
        epoch = self._cost_of_epoch()
        best: list[Tuned] = []
        tried: list[Tuned] = []
        whole = len(configs) * self.plan.grid.epochs * epoch
        with Progress(self.plan.name, whole, quiet=self.quiet) as progress:
            for _, group in itertools.groupby(configs, lambda each: replace(each, seed=0)):
                seeds = []
                for config in group:
                    folder = self.folder / f"configuration-{len(tried):04d}"
                    one = self.tune(config, folder, progress)
                    progress.total -= epoch * (config.epochs - len(one.curve))
                    seeds.append(one)
                    tried.append(one)
                    if self.workers.first:
                        self._say(one, len(tried), len(configs))
                sound = not any(one.diverged for one in seeds)
                if sound and (not best or rank(mean_score(seeds)) > rank(mean_score(best))):
                    best, seeds = seeds, best
                for one in seeds if self.workers.first else []:
                    one.values.unlink(missing_ok=True)
        if not best:
            raise diverged([one.config for one in tried if one.diverged], NOTHING_FINITE)
        return best, tried

    def tune(self, config: FinetuneConfig, folder: Path, progress: Progress) -> Tuned:
        """Train one configuration from where it was left, or read what it came to."""
        if self.workers.tell((folder / _DONE).exists()):
            return _read_done(folder, config)
        model, dropout = make_model(self.plan, config)
        trained = model.trained_parameters()
        tuning = FineTuning(
            model,
            dropout,
            self.views,
            self.plan.examples("train"),
            self.plan.examples("validation"),
            self.plan.objective,
            config,
            pace=self._pace,
            advance=progress.advance,
            workers=self.workers,
        )
        reset_peak(model.device)
        peak = resume(folder, tuning)
        if tuning.course.curve:
            progress.total -= self._cost_of_epoch() * len(tuning.course.curve)
            logger.info("going on after epoch %d", len(tuning.course.curve))
        while not tuning.course.stopped:
            tuning.one_epoch()
            peak = max(peak, peak_bytes(model.device))
            if self.workers.first:
                save_epoch(folder, tuning, peak)
            self.workers.tell(None)  # nobody runs ahead of the file
        course = tuning.course
        if self.workers.first:
            best = None if course.diverged else keep_best(folder)
            write_json(
                folder / _DONE,
                DoneDocument,
                {
                    "validation_score": or_none(course.score),
                    "best_epoch": course.best,
                    "seconds": course.seconds,
                    "parameters_trained": trained,
                    "peak_bytes": peak,
                    "curve": curve_as_json(course.curve),
                    "diverged": course.diverged,
                    "values_crc32c": None if best is None else crc32c_of(best),
                },
            )
            forget_epochs(folder)
        self.workers.tell(None)
        return _read_done(folder, config)

    def _cost_of_epoch(self) -> int:
        """Tokens through the model: each training row, each view of the validation rows."""
        validation: set[int] = set(self.views.rows[self.plan.split.validation].tolist())
        judged = sum(self.views.items[view].cost for view in validation)
        return self.views.cost(self.plan.split.train) + judged

    def _say(self, one: Tuned, number: int, count: int) -> None:
        config = one.config
        adapter = "" if config.rank is None else f", rank {config.rank}, alpha {config.alpha:g}"
        logger.info(
            "%d/%d batch size %d, learning rates %g and %g%s: %s of %d, %.1f s",
            number,
            count,
            config.batch_size,
            config.learning_rate,
            config.backbone_learning_rate,
            adapter,
            f"diverged in epoch {len(one.curve)}"
            if one.diverged
            else f"{self.plan.task.metric} {one.validation_score:.4f} at epoch {one.best_epoch}",
            len(one.curve),
            one.seconds,
        )


def make_model(plan: FinetunePlan, config: FinetuneConfig) -> tuple[LiveModel, Any]:
    """The pretrained backbone and a new head, with what learns marked; and where dropout begins."""
    backbone = plan.prepared.load_trainable()
    prepare_to_learn(backbone.model, plan.prepared.config.spec.family, config)
    backbone.model.checkpointing = plan.checkpointing
    head, dropout = make_head(plan.head, backbone.width, plan.objective.outputs, config.seed)
    head.dropout.p = config.dropout
    return LiveModel(backbone, head, plan.prepared.recipe.compute_dtype), dropout


def check_weights(plan: FinetunePlan) -> None:
    """Raise BadWeights where a pretrained value is not finite: nothing can be trained from it."""
    bad = not_finite_in(plan.prepared.load_trainable().model.state_dict())
    if bad is not None:
        raise BadWeights(
            f"{bad} of {plan.prepared.config.spec.name} holds values that are not finite.",
            "Fetch or convert the weights again: nothing can be trained from these.",
        )


def _read_done(folder: Path, config: FinetuneConfig) -> Tuned:
    held = read_json(folder / _DONE, DoneDocument, within=folder)
    score, best = held.validation_score, folder / "best.safetensors"
    if held.values_crc32c is not None and best.exists():  # only those that may be chosen are kept
        check_file(best, held.values_crc32c, folder)
    return Tuned(
        config=config,
        validation_score=float("nan") if score is None else score,
        best_epoch=held.best_epoch,
        curve=tuple(epochs_of(held.curve)),
        seconds=held.seconds,
        parameters_trained=held.parameters_trained,
        peak_bytes=held.peak_bytes,
        values=best,
        diverged=held.diverged,
    )
