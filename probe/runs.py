"""The folder of a run: a plan in; probes, predictions and results out, published at once.

A run grows in a hidden draft beside its final name and is renamed when it is complete. A killed
run goes on from the last backbone it finished.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.backbones.devices import resolve_device
from embedstore.errors import BadInput, Diverged, InUse
from embedstore.loaders import (
    EmbeddingReader,
    FeatureSet,
    JoinedReader,
    Loading,
    MemoryPlan,
    open_features,
    plan_memory,
)
from embedstore.store.files import publish_folder
from probe.audit import Audit
from probe.baselines import judge_shuffled, run_baselines
from probe.comparisons import compare
from probe.divergence import error_of_run
from probe.documents import or_none, write_json
from probe.grid import Judgement, Search, Tried, judge, pool, search
from probe.linear import load_means
from probe.plan import Plan
from probe.predictions import GROUPS, read_predictions, write_groups, write_predictions
from probe.report import write_run_report
from probe.run_documents import (
    RESULTS,
    RUN,
    SPLIT,
    ResultsDocument,
    RunDocument,
    read_results,
    read_run_document,
)
from probe.saved import save_probe, versions
from probe.training import LINEAR

_VARIED = ("batch_size", "learning_rate", "seed", "penalty")
"""What tells configurations of one run apart."""

WORK = "work"
"""Folder of a draft for what a killed run goes on from; removed when every result is written."""
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

    A folder that already holds this very run is read, not computed again. Backbones on which
    training diverged stand under `diverged` and not under `backbones`; the others are kept.

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
    Diverged
        Training diverged on every backbone: there is no run to keep, and its draft is removed.
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
        if (draft / RUN).exists():
            _check_same(draft, plan, "Choose another -o, or remove that unfinished run.")
        plan.split.save(draft / SPLIT)
        write_groups(draft / GROUPS, plan)
        if not (draft / RUN).exists():
            write_json(draft / RESULTS, ResultsDocument, _empty_results(plan))
            write_json(
                draft / RUN,
                RunDocument,
                plan.document()
                | {
                    "warnings": [*plan.audit.refusals, *plan.audit.warnings],
                    "versions": versions(),
                    "command": command,
                },
            )
        results = read_results(draft).values()
        memory = _plan_memory(plan, loading, results) if train is None else {}
        if "baselines" not in results:
            baselines, skipped = _judge_baselines(plan, draft, loading)
            results |= {"baselines": baselines, "skipped_baselines": skipped}
            write_json(draft / RESULTS, ResultsDocument, results)
        for name in plan.readers:
            if _is_done(name, results):
                logger.info("%s: done before", name)
                continue
            try:
                if train is None:
                    made = _probe_backbone(plan, name, draft, memory[name])
                else:
                    made = train(plan, name, draft)
            except Diverged as error:
                _forget_probes(plan, name, draft)
                lost = results.setdefault("diverged", {})
                lost[name] = _lost(plan.readers[name], error)
                logger.warning("%s: %s", name, error)
            else:
                results["backbones"][name] = made
            write_json(
                draft / RESULTS, ResultsDocument, results
            )  # from here on this backbone is done
        if not results["backbones"]:
            shutil.rmtree(draft)
            nothing_left = error_of_run(results, folder)
            assert nothing_left is not None, "a run has a backbone"
            raise nothing_left
        results["comparisons"] = _compare(plan, draft, results)
        write_json(draft / RESULTS, ResultsDocument, results)
        # only now: a run killed while it is removed has lost nothing
        shutil.rmtree(draft / WORK, ignore_errors=True)
        write_run_report(draft, folder.name)
        if _is_taken(folder):
            raise BadInput(
                f"{str(folder)!r} appeared while the run was made.",
                "Move it away and run the same command: what is done is kept.",
            )
        written = (RUN, SPLIT, GROUPS, RESULTS)
        publish_folder(draft, folder, dict.fromkeys(written))
    return results


def _is_done(name: str, results: dict[str, Any]) -> bool:
    """Whether a backbone needs no more work: it was trained, or cannot be."""
    return name in results["backbones"] or name in results.get("diverged", {})


def _lost(reader: EmbeddingReader, error: Diverged) -> dict[str, Any]:
    """An entry of `diverged` in `results.json`."""
    return {
        "recipe": reader.name,
        "view": reader.recipe.view,
        "problem": error.problem,
        "fix": error.fix,
    }


def _forget_probes(plan: Plan, name: str, draft: Path) -> None:
    """Remove what a backbone that diverged has left in a draft: no probe of it is kept."""
    seeds = range(plan.grid.seed, plan.grid.seed + plan.grid.seeds)
    for folder in (name, *(f"{name}-seed-{seed}" for seed in seeds)):
        shutil.rmtree(draft / "probes" / folder, ignore_errors=True)


def _read_finished(folder: Path, plan: Plan) -> dict[str, Any]:
    _check_same(folder, plan, "Choose another -o, or remove the folder.")
    logger.info("%s is complete: nothing to do", folder)
    return read_results(folder).values()


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


def _plan_memory(
    plan: Plan, loading: Loading, results: dict[str, Any]
) -> dict[str, MemoryPlan | None]:
    """Where the features of each backbone that is not done will be, said before any training.

    None for linear heads, which read stored means and no token.
    """
    found: dict[str, MemoryPlan | None] = {}
    for name, reader in plan.readers.items():
        if _is_done(name, results):
            continue
        found[name] = None
        if plan.head not in LINEAR:
            found[name] = plan_memory(reader, plan.keys[name], loading)
            logger.info("%s: %s", name, found[name])
    return found


def _judge_baselines(
    plan: Plan, draft: Path, loading: Loading
) -> tuple[dict[str, Any], dict[str, str]]:
    """Results by baseline, and by the name of one that could not be made the reason."""
    results = {}
    found, skipped = run_baselines(plan, resolve_device(loading.device))
    for one in found:
        write_predictions(draft / "baselines" / f"{one.name}.csv", plan, one.test.predicted)
        results[one.name] = {
            "chosen": one.settings,
            "validation_score": or_none(one.validation_score),
            "test_score": or_none(one.test.score),
        }
    return results, skipped


def _compare(plan: Plan, draft: Path, results: dict[str, Any]) -> dict[str, Any]:
    backbones, baselines = (
        {name: read_predictions(draft / folder / f"{name}.csv", plan) for name in results[what]}
        for folder, what in (("predictions", "backbones"), ("baselines", "baselines"))
    )
    return compare(plan, backbones, baselines)


def _open(reader: EmbeddingReader, keys: Sequence[str], memory: MemoryPlan | None) -> FeatureSet:
    return load_means(reader, keys) if memory is None else open_features(reader, keys, memory)


def _probe_backbone(
    plan: Plan, name: str, draft: Path, memory: MemoryPlan | None
) -> dict[str, Any]:
    import torch

    from probe.peak import peak_bytes, reset_peak

    reader = plan.readers[name]
    features = _open(reader, plan.keys[name], memory)
    train, validation = plan.examples("train"), plan.examples("validation")
    arguments = features, train, validation, plan.objective
    device = torch.device(features.device)
    reset_peak(device)
    found = search(*arguments, plan.configurations, plan.head, plan.search)
    judged = [judge(one, features, plan.examples("test"), plan.objective) for one in found.seeds]
    result = _result(plan, name, found, judged)
    result["peak_bytes"] = peak_bytes(device)
    try:
        shuffled = judge_shuffled(features, plan, found.best.config)
    except Diverged as error:  # a control: the head itself is sound
        logger.warning("%s, on shuffled labels: %s", name, error)
        result["shuffled_labels_test_score"] = None
        result["shuffled_labels_diverged"] = True
    else:
        result["shuffled_labels_test_score"] = or_none(shuffled.score)
    if memory is not None:
        result["memory"] = memory.as_json()
    for one, scores in zip(found.seeds, result["seeds"], strict=True):
        folder = draft / "probes" / name
        if one is not found.best:
            folder = folder.with_name(f"{name}-seed-{scores['seed']}")
        if folder.exists():  # a killed run saved it, but not its result
            shutil.rmtree(folder)
        save_probe(
            folder,
            one.head,
            recipe=reader.recipe,
            objective=plan.objective,
            split_digest=plan.split.digest,
            metrics={
                part: {plan.task.metric: scores[f"{part}_score"], "n": result["n"][part]}
                for part in ("validation", "test")
            },
            training=one.config,
        )
    write_predictions(draft / "predictions" / f"{name}.csv", plan, pool(judged).predicted)
    logger.info("%s: test %s %.4f", name, plan.task.metric, pool(judged).score)
    return result


def _result(plan: Plan, name: str, found: Search, judged: Sequence[Judgement]) -> dict[str, Any]:
    best = found.best
    return {
        "recipe": plan.readers[name].name,
        **_joined(plan.readers[name]),
        "view": plan.readers[name].recipe.view,
        "width": plan.readers[name].recipe.width,
        "parameters": sum(weights.numel() for weights in best.head.parameters()),
        "chosen": best.config.as_json(),
        "best_epoch": best.best_epoch or None,
        "validation_score": or_none(found.validation_score),
        "test_score": or_none(pool(judged).score),
        "seeds": [
            {
                "seed": plan.grid.seed + at,
                "best_epoch": head.best_epoch or None,
                "validation_score": or_none(head.validation_score),
                "test_score": or_none(one.score),
            }
            for at, (head, one) in enumerate(zip(found.seeds, judged, strict=True))
        ],
        **_per_output(plan, judged),
        "n": {part: len(rows) for part, rows in plan.split.parts.items()},
        "seconds": round(math.fsum(one.seconds for one in found.tried), 3),
        "configurations": [_tried(one) for one in found.tried],
    }


def _joined(reader: EmbeddingReader) -> dict[str, Any]:
    if not isinstance(reader, JoinedReader):
        return {}
    recipe = reader.recipe
    return {"recipes": [each.name for each in recipe.recipes], "align": recipe.align}


def _per_output(plan: Plan, judged: Sequence[Judgement]) -> dict[str, Any]:
    """Of several outputs, the mean test score of each over seeds."""
    units = plan.task.units
    if len(units) == 1:
        return {}
    targets = plan.examples("test").targets
    scores = np.mean([plan.objective.scores(one.predicted, targets) for one in judged], axis=0)
    return {"per_output": dict(zip(units, map(or_none, scores.tolist()), strict=True))}


def _tried(one: Tried) -> dict[str, Any]:
    curve = {
        "train_loss": [or_none(epoch.train_loss) for epoch in one.curve],
        "validation_score": [or_none(epoch.validation_score) for epoch in one.curve],
    }
    return {
        **{name: value for name, value in one.config.as_json().items() if name in _VARIED},
        "validation_score": or_none(one.validation_score),
        "best_epoch": one.best_epoch or None,
        "seconds": round(one.seconds, 3),
        **({"curve": curve} if one.curve else {}),  # a linear head has no epochs
        **({"diverged": True} if one.diverged else {}),
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
    shown = plan.objective.show(np.asarray(constant)[None])[0]
    return {
        "metric": plan.task.metric,
        "unit": plan.task.unit,
        "audit": plan.audit.as_json(),
        "constant": {"prediction": shown, **scores},
        "backbones": {},
    }


def _is_taken(folder: Path) -> bool:
    """Whether something stands there that a rename must not replace."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _check_same(folder: Path, plan: Plan, fix: str) -> None:
    """Raise BadInput where a folder does not hold this very run.

    Of splits the digest decides, not the words for people.
    """
    saved = read_run_document(folder).values()
    now = json.loads(json.dumps(plan.document()))  # tuples are lists there
    different = [key for key in now if _compared(saved, key) != _compared(now, key)]
    if different == ["split"] and plan.classes and saved["split"]["rule"].startswith("random 0"):
        fix = "Say --split random-plain for a split that looks at no class, or choose another -o."
    elif different == ["split"] and (folder / SPLIT).is_file():
        kept = shlex.quote(str(folder / SPLIT))
        fix = f"Say --split {kept} for the split that it has, or choose another -o."
    if different:
        raise BadInput(f"{str(folder)!r} holds a run that differs in {', '.join(different)}.", fix)


def _compared(document: dict[str, Any], key: str) -> Any:
    value = document.get(key)
    if key == "split" and isinstance(value, dict):
        return {name: each for name, each in value.items() if name != "rule"}
    return value


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
