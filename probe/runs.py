"""The folder of a run: a plan in; probes, predictions and results out, published at once.

A run grows in a hidden draft beside its final name and is renamed when it is complete. A killed
run goes on from the last backbone it finished.
"""

from __future__ import annotations

import csv
import fcntl
import io
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.backbones.load import resolve_device
from embedstore.errors import BadInput, InUse
from embedstore.loaders import (
    EmbeddingReader,
    JoinedReader,
    Loading,
    MemoryPlan,
    open_features,
    plan_memory,
)
from embedstore.store.files import publish_folder, write_atomically
from probe.audit import Audit
from probe.baselines import judge_shuffled, run_baselines
from probe.comparisons import compare, input_groups, read_predictions
from probe.documents import or_none, read_json, write_json
from probe.grid import Judgement, Search, Tried, judge, search
from probe.plan import FORMAT, Plan
from probe.report import write_run_report
from probe.saved import save_probe, versions

Train = Callable[[Plan, str, Path], dict[str, Any]]
"""Plan, name of a backbone and draft in; its entry of `results.json` out."""

logger = logging.getLogger(__name__)


def draft_of(folder: Path) -> Path:
    """Where a run grows until it is published as `folder`."""
    return folder.with_name(f".{folder.name}.draft")


def run_grid(
    plan: Plan,
    folder: Path,
    *,
    force: bool = False,
    command: str | None = None,
    loading: Loading = Loading(),
    train: Train | None = None,
) -> dict[str, Any]:
    """Carry out a plan, or finish it, and publish the folder; its `results.json` comes back.

    A folder that already holds this very run is read, not computed again.

    Parameters
    ----------
    force : go on where the audit says that a backbone cannot work
    command : shell text that redoes the run; kept in `run.json` for people
    loading : memory for features, and the device to train on
    train : what to do for each backbone; None: a grid of heads on its stored embeddings

    Raises
    ------
    BadInput
        The audit refuses the plan, the folder holds something else, or a draft of another run
        stands in the way.
    InUse
        Another process is at work on this run.
    """
    draft = draft_of(folder)
    if _is_taken(folder):
        return _read_finished(folder, plan)
    _heed(plan.audit, force)
    draft.mkdir(parents=True, exist_ok=True)
    with _locked(draft):
        if _is_taken(folder):  # another process finished it just now
            if draft.is_dir() and not any(draft.iterdir()):
                draft.rmdir()
            return _read_finished(folder, plan)
        if (draft / "run.json").exists():
            _check_same(draft, plan, "Choose another -o, or remove that unfinished run.")
        else:
            plan.split.save(draft / "split.json")
            _write_groups(draft / "test_groups.csv", plan)
            write_json(draft / "results.json", _empty_results(plan))
            write_json(
                draft / "run.json", plan.document() | {"versions": versions(), "command": command}
            )
        results = read_json(draft / "results.json", "results", FORMAT)
        memory = _plan_memory(plan, loading, results) if train is None else {}
        if "baselines" not in results:
            results["baselines"] = _judge_baselines(plan, draft, loading)
            write_json(draft / "results.json", results)
        for name in plan.readers:
            if name in results["backbones"]:
                logger.info("%s: done before", name)
                continue
            if train is None:
                made = _probe_backbone(plan, name, draft, memory[name])
            else:
                made = train(plan, name, draft)
            results["backbones"][name] = made
            write_json(draft / "results.json", results)  # from here on this backbone is done
        results["comparisons"] = _compare(plan, draft, results)
        write_json(draft / "results.json", results)
        write_run_report(draft, folder.name)
        if _is_taken(folder):
            raise BadInput(
                f"{str(folder)!r} appeared while the run was made.",
                "Move it away and run the same command: what is done is kept.",
            )
        publish_folder(draft, folder)
    return results


def _read_finished(folder: Path, plan: Plan) -> dict[str, Any]:
    _check_same(folder, plan, "Choose another -o, or remove the folder.")
    logger.info("%s is complete: nothing to do", folder)
    return read_json(folder / "results.json", "results", FORMAT)


def _heed(audit: Audit, force: bool) -> None:
    """Say what the audit doubts, and stop at what it refuses unless told to go on."""
    for sentence in audit.warnings:
        logger.warning("warning: %s", sentence)
    if audit.refusals and not force:
        raise BadInput(
            f"This cannot work: {' '.join(audit.refusals)}",
            "Leave that backbone out or choose another split or label; --force runs it all the "
            "same.",
        )
    for sentence in audit.refusals:
        logger.warning("forced: %s", sentence)


def _plan_memory(plan: Plan, loading: Loading, results: dict[str, Any]) -> dict[str, MemoryPlan]:
    """Where the features of each backbone that is not done will be, said before any training."""
    found = {}
    for name, reader in plan.readers.items():
        if name not in results["backbones"]:
            found[name] = plan_memory(reader, plan.keys[name], loading)
            logger.info("%s: %s", name, found[name])
    return found


def _judge_baselines(plan: Plan, draft: Path, loading: Loading) -> dict[str, Any]:
    results = {}
    for one in run_baselines(plan, resolve_device(loading.device)):
        _write_predictions(draft / "baselines" / f"{one.name}.csv", plan, one.test.predicted)
        results[one.name] = {
            "chosen": one.settings,
            "validation_score": or_none(one.validation_score),
            "test_score": or_none(one.test.score),
        }
    return results


def _compare(plan: Plan, draft: Path, results: dict[str, Any]) -> dict[str, Any]:
    backbones, baselines = (
        {name: read_predictions(draft / folder / f"{name}.csv", plan) for name in results[what]}
        for folder, what in (("predictions", "backbones"), ("baselines", "baselines"))
    )
    return compare(plan, backbones, baselines)


def _probe_backbone(plan: Plan, name: str, draft: Path, memory: MemoryPlan) -> dict[str, Any]:
    reader = plan.readers[name]
    features = open_features(reader, plan.keys[name], memory)
    train, validation = plan.examples("train"), plan.examples("validation")
    arguments = features, train, validation, plan.objective
    found = search(*arguments, plan.grid.configurations(), plan.head, plan.search)
    judged = judge(found.best, features, plan.examples("test"), plan.objective)
    result = _result(plan, name, found, judged)
    shuffled = judge_shuffled(features, plan, found.best.config)
    result["shuffled_labels_test_score"] = or_none(shuffled.score)
    result["memory"] = memory.as_json()
    folder = draft / "probes" / name
    if folder.exists():  # a killed run saved it, but not its result
        shutil.rmtree(folder)
    save_probe(
        folder,
        found.best.head,
        recipe=reader.recipe,
        objective=plan.objective,
        split_digest=plan.split.digest,
        metrics={
            part: {plan.task.metric: result[f"{part}_score"], "n": result["n"][part]}
            for part in ("validation", "test")
        },
        training=found.best.config,
    )
    _write_predictions(draft / "predictions" / f"{name}.csv", plan, judged.predicted)
    logger.info("%s: test %s %.4f", name, plan.task.metric, judged.score)
    return result


def _result(plan: Plan, name: str, found: Search, judged: Judgement) -> dict[str, Any]:
    best = found.best
    return {
        "recipe": plan.readers[name].name,
        **_joined(plan.readers[name]),
        "view": plan.readers[name].recipe.view,
        "width": plan.readers[name].recipe.width,
        "parameters": sum(weights.numel() for weights in best.head.parameters()),
        "chosen": best.config.as_json(),
        "best_epoch": best.best_epoch,
        "validation_score": or_none(best.validation_score),
        "test_score": or_none(judged.score),
        "n": {part: len(rows) for part, rows in plan.split.parts.items()},
        "seconds": round(math.fsum(one.seconds for one in found.tried), 3),
        "configurations": [_tried(one) for one in found.tried],
    }


def _joined(reader: EmbeddingReader) -> dict[str, Any]:
    if not isinstance(reader, JoinedReader):
        return {}
    recipe = reader.recipe
    return {"recipes": [each.name for each in recipe.recipes], "align": recipe.align}


def _tried(one: Tried) -> dict[str, Any]:
    return {
        "batch_size": one.config.batch_size,
        "learning_rate": one.config.learning_rate,
        "validation_score": or_none(one.validation_score),
        "best_epoch": one.best_epoch,
        "seconds": round(one.seconds, 3),
        "curve": {
            "train_loss": [or_none(epoch.train_loss) for epoch in one.curve],
            "validation_score": [or_none(epoch.validation_score) for epoch in one.curve],
        },
    }


def _empty_results(plan: Plan) -> dict[str, Any]:
    """Results before any backbone: the answer that needs no sequence."""
    constant = plan.objective.constant(plan.examples("train").targets)
    scores = {}
    for part in ("validation", "test"):
        targets = plan.examples(part).targets
        scores[f"{part}_score"] = or_none(
            plan.objective.score(np.full_like(targets, constant), targets)
        )
    shown = plan.objective.show(np.array([constant]))[0]
    return {
        "kind": "results",
        "format": FORMAT,
        "metric": plan.task.metric,
        "unit": plan.task.unit,
        "audit": plan.audit.as_json(),
        "constant": {"prediction": shown, **scores},
        "backbones": {},
    }


def _write_predictions(path: Path, plan: Plan, predicted: NDArray[Any]) -> None:
    test = plan.examples("test")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "true", "predicted"])
    show = plan.objective.show
    ids = [plan.split.ids[row] for row in test.rows.tolist()]
    writer.writerows(zip(ids, show(test.targets), show(predicted), strict=True))
    write_atomically(path, text.getvalue().encode())


def _write_groups(path: Path, plan: Plan) -> None:
    """Which test rows share an input, so that runs can be compared without their store."""
    ids = [plan.split.ids[row] for row in plan.split.test.tolist()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "group"])
    writer.writerows(zip(ids, input_groups(plan).tolist(), strict=True))
    write_atomically(path, text.getvalue().encode())


def _is_taken(folder: Path) -> bool:
    """Whether something stands there that a rename must not replace."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _check_same(folder: Path, plan: Plan, fix: str) -> None:
    """Raise BadInput where a folder does not hold this very run."""
    saved, now = read_json(folder / "run.json", "run", FORMAT), plan.document()
    different = [key for key in now if saved.get(key) != now[key]]
    if different:
        raise BadInput(f"{str(folder)!r} holds a run that differs in {', '.join(different)}.", fix)


@contextmanager
def _locked(draft: Path) -> Iterator[None]:
    """Keep other processes out of a draft; the lock goes with the process that holds it."""
    handle = os.open(draft, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"Another process is at work on {str(draft)!r}.",
                "Wait for it, or choose another -o.",
            ) from None
        yield
    finally:
        os.close(handle)
