"""A fine-tuning run: a plan in, the folder of a run out, made and published like a probing run's.

Beside the head of a probe stand its own backbone and, for LoRA, the adapter.
"""

from __future__ import annotations

import logging
import math
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.backbones.load import PreparedBackbone
from embedstore.errors import Diverged
from probe.divergence import diverged
from probe.documents import or_none
from probe.finetune.export import ADAPTER, BACKBONE, export
from probe.finetune.method import FinetuneConfig
from probe.finetune.plan import FinetunePlan
from probe.finetune.predict import live_outputs
from probe.finetune.search import Search, Tuned, check_weights, mean_score
from probe.finetune.workers import Workers, find_workers
from probe.grid import Judgement, pool
from probe.plan import Plan
from probe.predictions import write_predictions
from probe.run_documents import RESULTS
from probe.runs import WORK, run_grid
from probe.saved import save_probe

if TYPE_CHECKING:
    from probe.bank import Head

logger = logging.getLogger(__name__)


def run_finetuning(
    plan: FinetunePlan,
    folder: Path,
    *,
    force: bool = False,
    command: str | None = None,
    quiet: bool = False,
    workers: Workers | None = None,
) -> dict[str, Any] | None:
    """Carry out a plan, or finish it, and publish the folder; its `results.json` comes back.

    Started by `accelerate launch`, every process calls this; only the first gets results, the
    others None.

    Parameters
    ----------
    force, folder, command : as in `probe.runs.run_grid`
    quiet : show no progress

    Raises
    ------
    BadInput
        As in `probe.runs.run_grid`, or a sequence does not fit the device's memory.
    Diverged
        Every configuration diverged: there is no run to keep.
    BadWeights
        A pretrained value is not finite.
    """
    workers = workers or find_workers()
    if not (folder / RESULTS).exists():
        check_weights(plan)  # in every process, so that none waits for another
    if not workers.first:
        while (job := workers.tell(None)) is not None:
            configs, work = job
            with suppress(Diverged):  # the first process says so
                Search(plan, work, workers, quiet=True).choose(configs)
        return None

    def train(_: Plan, name: str, draft: Path) -> dict[str, Any]:
        return _tune(plan, name, draft, workers, quiet)

    try:
        results = run_grid(plan, folder, force=force, command=command, train=train)
    except Diverged:
        workers.tell(None)  # the others have come to the end as well
        raise
    workers.tell(None)
    return results


def _tune(
    plan: FinetunePlan, name: str, draft: Path, workers: Workers, quiet: bool
) -> dict[str, Any]:
    """Search, export every seed of the choice, read the test rows, keep what came of it."""
    work = draft / WORK
    configs = plan.grid.tunings()
    workers.tell((configs, work))
    seeds, tried = Search(plan, work, workers, quiet=quiet).choose(configs)
    exports = [_export(plan, one, work / f"export-{at}") for at, one in enumerate(seeds)]
    judged = [_judge(plan, one.config, each) for one, each in zip(seeds, exports, strict=True)]
    result = _result(plan, seeds, tried, judged, exports[0])
    for one, scores, exported in zip(seeds, result["seeds"], exports, strict=True):
        more = "" if one is seeds[0] else f"-seed-{one.config.seed}"
        _save(plan, draft / "probes" / f"{name}{more}", one.config, scores, exported)
    write_predictions(draft / "predictions" / f"{name}.csv", plan, pool(judged).predicted)
    logger.info("%s: test %s %.4f", name, plan.task.metric, result["test_score"] or math.nan)
    return result


@dataclass(frozen=True, eq=False)
class _Exported:
    """A fine-tuned model in files."""

    folder: Path
    prepared: PreparedBackbone
    head: Head


def _export(plan: FinetunePlan, one: Tuned, folder: Path) -> _Exported:
    shutil.rmtree(folder, ignore_errors=True)  # a killed run was writing it
    return _Exported(folder, *export(plan, one.config, one.values, folder))


def _judge(plan: FinetunePlan, config: FinetuneConfig, exported: _Exported) -> Judgement:
    """Predict the test rows by the exported files: the only place where they are read.

    What was saved is what is judged, so whoever loads it gets these predictions.

    Raises
    ------
    Diverged
        A prediction is not finite.
    """
    test, views = plan.examples("test"), plan.views
    distinct, inverse = np.unique(views.rows[test.rows], return_inverse=True)
    items = [views.items[view] for view in distinct.tolist()]
    outputs = live_outputs(exported.prepared.load(), exported.head.eval(), items)
    if not np.isfinite(outputs).all():
        raise diverged([config], "its predictions for the test rows are not finite")
    predicted = plan.objective.decode(outputs)[inverse]
    return Judgement(plan.objective.score(predicted, test.targets), predicted)


def _result(
    plan: FinetunePlan,
    seeds: list[Tuned],
    tried: list[Tuned],
    judged: list[Judgement],
    exported: _Exported,
) -> dict[str, Any]:
    recipe, best = plan.prepared.recipe, seeds[0]
    return {
        "recipe": exported.prepared.recipe.name,
        "method": plan.grid.method,
        "view": recipe.view,
        "width": recipe.width,
        "parameters": sum(values.numel() for values in exported.head.parameters()),
        "parameters_trained": best.parameters_trained,
        "chosen": best.config.as_json(),
        "best_epoch": best.best_epoch,
        "validation_score": or_none(mean_score(seeds)),
        "test_score": or_none(float(np.mean([one.score for one in judged]))),
        "seeds": [
            {
                "seed": one.config.seed,
                "best_epoch": one.best_epoch,
                "validation_score": or_none(one.validation_score),
                "test_score": or_none(judgement.score),
            }
            for one, judgement in zip(seeds, judged, strict=True)
        ],
        "n": {part: len(rows) for part, rows in plan.split.parts.items()},
        "seconds": round(math.fsum(one.seconds for one in tried), 3),
        "peak_bytes": max(one.peak_bytes for one in tried),
        "configurations": [one.as_json() for one in tried],
    }


def _save(
    plan: FinetunePlan,
    folder: Path,
    config: FinetuneConfig,
    scores: dict[str, Any],
    exported: _Exported,
) -> None:
    """Publish the probe; the backbone and adapter move into its folder."""
    if folder.exists():  # a killed run saved it, but not its result
        shutil.rmtree(folder)
    inside = [exported.folder / each for each in (BACKBONE, ADAPTER)]
    save_probe(
        folder,
        exported.head,
        recipe=exported.prepared.recipe,
        objective=plan.objective,
        split_digest=plan.split.digest,
        metrics={
            part: {plan.task.metric: scores[f"{part}_score"], "n": len(plan.split.parts[part])}
            for part in ("validation", "test")
        },
        training=config,
        finetuned={"method": plan.grid.method, "base": plan.prepared.recipe.as_json()},
        folders=[each for each in inside if each.exists()],
    )
