"""Carry out a sweep: its runs in; one folder a run, what could not be done, and a report out.

Each run is what `probe grid` makes, so one that is finished is not redone and a killed one goes
on. Two processes may work on one sweep: each leaves to the other what it is at.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from embedstore import Store, open_store
from embedstore.errors import BadInput, InUse, StoreError, WriteFailed
from embedstore.store.files import write_atomically
from probe.divergence import error_of_run
from probe.documents import write_json
from probe.plan import Plan, plan_run
from probe.redo import grid_command
from probe.run_documents import RESULTS, RUN, SWEEP, SweepDocument, read_results
from probe.runs import draft_of, run_grid
from probe.saved import versions
from probe.sweep_file import Sweep, SweepRun
from probe.tasks import Task, infer_kind

State = Literal["done", "begun", "to do", "cannot run", "in use"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far one run of a sweep is."""

    run: SweepRun
    folder: Path
    state: State
    problem: str | None = None
    """Why it cannot run, with the fix; who is at it; or on which backbones training diverged."""
    command: str | None = None
    """`probe grid` line that makes this run; None where it cannot be planned."""

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return {
            "name": self.run.name,
            "collection": self.run.task.collection,
            "label": self.run.task.label,
            "head": self.run.head,
            "split": self.run.split.text,
            "seed": self.run.grid.seed,
            "backbones": list(self.run.task.backbones),
            "configurations": len(self.run.grid.configurations()),
            "state": self.state,
            "problem": self.problem,
            "command": self.command,
        }


def look_at(sweep: Sweep, folder: Path) -> list[Standing]:
    """What is done of a sweep, what is to do, and what cannot run; writes and trains nothing.

    Every run that is not done is planned: labels, rows, split and audit are gone through.

    Raises
    ------
    NotAStore, NewerFormat
        The store of the file cannot be opened.
    """
    store = open_store(sweep.store)
    standing = []
    for run in sweep.runs:
        now = _stand(run, folder)
        if now.state != "done":
            try:
                plan = _plan(run, _task(run, store), store)
                if plan.audit.refusals and not run.force:
                    now = replace(now, state="cannot run", problem=" ".join(plan.audit.refusals))
            except StoreError as error:
                now = replace(now, state="cannot run", problem=str(error))
        standing.append(now)
    return standing


def run_sweep(sweep: Sweep, folder: Path) -> list[Standing]:
    """Carry out every run of a sweep that is not done, and write down what the sweep was.

    A run that fails on its input does not stop the others; a disk that keeps nothing does.
    `sweep.yaml` is the file as it was read; `sweep.json` holds its digest, the versions, and each
    run with its state, problem and command line.

    Raises
    ------
    NotAStore, NewerFormat
        The store of the file cannot be opened.
    BadInput
        The folder exists and is no sweep's.
    WriteFailed
    """
    store = open_store(sweep.store)
    there = [path.name for path in folder.iterdir()] if folder.exists() else []
    if SWEEP not in there and any(not name.startswith(".") for name in there):
        raise BadInput(f"{str(folder)!r} holds something else.", "Choose another -o.")
    standing = [_stand(run, folder) for run in sweep.runs]
    for line in listing(standing):
        logger.info("%s", line)
    write_json(folder / SWEEP, SweepDocument, _document(sweep, standing))
    write_atomically(folder / "sweep.yaml", sweep.text)
    for number, now in enumerate(standing):
        logger.info("== %d of %d: %s", number + 1, len(standing), now.run.name)
        standing[number] = _carry_out(sweep, now, store)
        if standing[number].problem is not None:
            logger.warning("%s: %s", now.run.name, standing[number].problem)
        write_json(folder / SWEEP, SweepDocument, _document(sweep, standing))
    return standing


def listing(standing: Sequence[Standing]) -> list[str]:
    """One line a run, in the order in which they are carried out."""
    width = max(len(now.run.name) for now in standing)
    return [
        f"{number:3}  {now.run.name:{width}}  {now.state:10}  "
        f"{len(now.run.task.backbones)} backbones x {len(now.run.grid.configurations())} "
        f"configurations{f'  {now.problem}' if now.problem else ''}"
        for number, now in enumerate(standing, 1)
    ]


def _stand(run: SweepRun, folder: Path) -> Standing:
    own = folder / run.name
    if (own / RESULTS).exists():
        lost = error_of_run(read_results(own).values(), own)
        problem = None if lost is None else str(lost)
        return Standing(run=run, folder=own, state="done", problem=problem)
    begun = (draft_of(own) / RUN).exists()
    return Standing(run=run, folder=own, state="begun" if begun else "to do")


def _carry_out(sweep: Sweep, now: Standing, store: Store) -> Standing:
    run = now.run
    try:
        task = _task(run, store)
        command = grid_command(
            sweep.store,
            task,
            run.task.backbones,
            run.grid,
            now.folder,
            head=run.head,
            search=run.search,
            split_rule=run.split,
            force=run.force,
        )
        now = replace(now, command=command)
        results = run_grid(_plan(run, task, store), now.folder, force=run.force, command=command)
    except WriteFailed:
        raise
    except StoreError as error:
        state: State = "in use" if isinstance(error, InUse) else "cannot run"
        return replace(now, state=state, problem=str(error))
    lost = error_of_run(results, now.folder)
    return replace(now, state="done", problem=None if lost is None else str(lost))


def _task(run: SweepRun, store: Store) -> Task:
    told = run.task
    table = store.collection(told.collection).table
    return Task(
        collection=told.collection,
        label=told.label,
        kind=told.kind or infer_kind(table, told.label, told.decimal),
        transform=told.transform,
        min_label=told.min_label,
        max_letters=told.max_nt,
        scored_by=told.metric,
        balance=told.balance,
        decimal=told.decimal,
    )


def _plan(run: SweepRun, task: Task, store: Store) -> Plan:
    return plan_run(
        store,
        task,
        run.task.backbones,
        run.grid,
        head=run.head,
        search=run.search,
        split_rule=run.split,
    )


def _document(sweep: Sweep, standing: Sequence[Standing]) -> dict[str, Any]:
    return {
        "file": sweep.file,
        "digest": sweep.digest,
        "store": sweep.store,
        "versions": versions(),
        "runs": [now.as_json() for now in standing],
    }
