"""Damage every file of a small store in every way; no operation may give a traceback or a lie.

A store of two collections, two recipes and a run of `probe grid` is made with the product itself.
Then one file after another is flipped, cut, edited, deleted, or replaced by a folder, a pipe, a
link, a device or its namesake, and people's operations run on it in a process of their own:
commands, readers and every GET route. Allowed are right numbers, and an error that names what is
damaged. Prints one JSON line of counts, and each failure as a line of JSON on stderr, which --case
repeats; exit code 1 where there is one.

With --bucket the store lies on an S3 server on loopback, behind a proxy that fails requests.

Example: python scripts/torture_store.py --seconds 600 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torture.one_thread
from torture.damages import IN_BUCKET, ON_DISK, Damage, damages, kind_of
from torture.judging import ALLOWED, RIGHT, Said, Verdict, judge, names_of
from torture.operations import NEED_A_RUN, OPERATIONS, Operation, Scene, concerned
from torture.places import InBucket, OnDisk, Place, Sandbox, attempts
from torture.samples import GENES, Sample, dump, load, make_sample
from torture.watch import Watch
from torture.workers import DEADLINE_SECONDS, Job, Worker, look_outside, said_from_json

BUCKET_SECONDS = 60.0
"""Deadline behind the proxy: a client tries again for a while."""
MAKING_SECONDS = 120.0
MOST_CASES = 200
"""Of one worker; what fails is tried again in a new one."""


def main() -> None:
    """Damage a store as the options say."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="torture-", dir=options.folder) as root:
        sandbox = Sandbox(Path(root).resolve())
        os.environ |= {"HOME": str(sandbox.home), "TMPDIR": str(sandbox.out)}
        tempfile.tempdir = str(sandbox.out)
        with _place(sandbox, options) as place:
            counts = torture(place, sandbox, options)
    print(json.dumps(counts))
    sys.exit(1 if counts["failures"] else 0)


def torture(place: Place, sandbox: Sandbox, options: argparse.Namespace) -> dict[str, Any]:
    """Make the store, then try damages until all are done or the time is over.

    Returns
    -------
    counts of cases by outcome, damage, file and operation
    """
    harness = Harness(place, sandbox, {name: OPERATIONS[name] for name in options.operations})
    if options.bucket:
        harness.deadline, harness.bucket = BUCKET_SECONDS, True
    run = not set(options.operations).isdisjoint(NEED_A_RUN)
    harness.make(lambda: make_sample(place.store, sandbox.inputs, options.genes, run=run))
    place.open()
    if options.case:
        wanted = json.loads(options.case)
        operation = wanted.pop("operation", None)
        fields = {name: wanted[name] for name in Damage.__dataclass_fields__ if name in wanted}
        cases = [Damage(**fields)]
        if operation:
            harness.operations = {operation: OPERATIONS[operation]}
    else:
        kinds = IN_BUCKET if options.bucket else ON_DISK
        kinds = tuple(kind for kind in kinds if kind in (options.damages or kinds))
        cases = damages(place.tree, kinds, options.share, options.seed)
    ends = time.monotonic() + (options.seconds or 1e9)
    cases = [damage for damage in cases if fnmatch.fnmatch(damage.path, options.files)]
    for damage in cases[: options.most]:
        if time.monotonic() > ends:
            break
        harness.try_out(damage, ends)
    harness.close()
    place.reset()
    return harness.counts()


class Harness:
    """Damages one place, and judges what operations do there."""

    def __init__(self, place: Place, sandbox: Sandbox, operations: Mapping[str, Operation]) -> None:
        self.place, self.sandbox, self.operations = place, sandbox, dict(operations)
        self.deadline, self.bucket = DEADLINE_SECONDS, False
        self.tried: Counter[tuple[str, str, str, str]] = Counter()
        self.failures: list[dict[str, Any]] = []
        self.truth: dict[str, Said] = {}
        self._sample: Sample | None = None
        self._owners: dict[str, str] = {}
        self._began, self._damages = time.monotonic(), 0
        self._watch: Watch | None = None
        self._worker: Worker | None = None
        self._used = 0

    def make(self, make: Any) -> None:
        """Make the sample, and see what every operation says of it."""
        made = self._alone("make", lambda: Said(text=dump(make()).decode()), MAKING_SECONDS)
        self._sample = load(made.text.encode())
        inputs = self.sandbox.inputs / "run"
        if inputs.exists():
            inputs.rename(self.sandbox.run)
        self.place.keep()
        self._owners = attempts(self.place.tree, json.loads)
        scene = self._scene()
        for name, run in self.operations.items():
            self.place.reset()
            said = self._alone(name, lambda run=run: run(scene), MAKING_SECONDS)
            failed = [(each, item.text) for each, item in said.items.items() if item.value is None]
            if failed or not said.items:
                raise SystemExit(f"{name} fails undamaged: {failed} {said.text}")
            self.truth[name] = said
        self.place.reset()
        foreign = self.sandbox.foreign
        self._watch = Watch(foreign, [self.sandbox.outside])

    def try_out(self, damage: Damage, ends: float = 1e18) -> None:
        """Run every operation that a damage concerns, each on the store damaged anew."""
        assert self._watch is not None
        self._damages += 1
        for operation in concerned(damage.path, list(self.operations)):
            if time.monotonic() > ends:
                break
            verdict = self._try(damage, operation)
            if verdict is None:
                break
            if not verdict.allowed and self._used > 1:  # in a process without a past it decides
                self.close()
                verdict = self._try(damage, operation) or verdict
            self._note(damage, operation, verdict)
        if self._used > MOST_CASES:
            self.close()

    def close(self) -> None:
        """End the worker; the next damage gets a new one."""
        if self._worker is not None:
            self._worker.close()
        self._worker, self._used = None, 0

    def _try(self, damage: Damage, operation: str) -> Verdict | None:
        """One operation on the store damaged anew; None where that changes nothing."""
        assert self._watch is not None
        self.place.reset()
        if not self.place.apply(damage):
            return None
        self._watch.seen()
        if self._worker is None:
            self._worker = self._fork(self._job, self.deadline, bounded=True)
        self._used += 1
        verdict, _ = self._worker.run(operation, json.dumps(damage.as_json()))
        verdict = look_outside(self._watch, verdict)
        if not self._worker.process:
            self._worker, self._used = None, 0
        return verdict

    def counts(self) -> dict[str, Any]:
        """What was tried and what it came to."""
        names = ("file", "damage", "operation", "outcome")
        seconds = time.monotonic() - self._began
        tables: dict[str, Any] = {}
        for at, name in enumerate(names[:3]):
            table: dict[str, Counter[str]] = {}
            for key, count in self.tried.items():
                table.setdefault(key[at], Counter())[key[3]] += count
            tables[f"by_{name}"] = {each: dict(table[each]) for each in sorted(table)}
        outcomes: Counter[str] = Counter()
        for key, count in self.tried.items():
            outcomes[key[3]] += count
        return {
            "bucket": self.bucket,
            "files": len(self.place.tree),
            "bytes": sum(map(len, self.place.tree.values())),
            "damages": self._damages,
            "cases": sum(self.tried.values()),
            "failures": sum(outcomes[name] for name in outcomes if name not in ALLOWED),
            "outcomes": dict(outcomes),
            "seconds": round(seconds, 1),
            **tables,
        }

    def _note(self, damage: Damage, operation: str, verdict: Verdict) -> None:
        key = (kind_of(damage.path), damage.kind, operation, verdict.outcome)
        self.tried[key] += 1
        if not verdict.allowed:
            line = {
                **damage.as_json(),
                "operation": operation,
                "outcome": verdict.outcome,
                "text": verdict.text,
            }
            self.failures.append(line)
            print(json.dumps(line), file=sys.stderr, flush=True)

    def _scene(self) -> Scene:
        assert self._sample is not None
        routes = list(self.truth["http"].items) if "http" in self.truth else []
        return Scene(self.place.store, self.sandbox.run, self.sandbox.out, self._sample, routes)

    def _job(self, operation: str, text: str) -> tuple[Said, Verdict]:
        """What the worker does."""
        damage = Damage(**json.loads(text))
        said = self.operations[operation](self._scene())
        names = names_of(damage, self._owners)
        return said, judge(operation, self.truth[operation], said, damage, names, self.bucket)

    def _alone(self, name: str, run: Any, deadline: float) -> Said:
        """Run something in a worker of its own; ends the script where it fails."""
        worker = self._fork(lambda _, __: (run(), Verdict(RIGHT)), deadline, bounded=False)
        verdict, answer = worker.run(name)
        worker.close()
        if verdict.outcome != RIGHT or answer["said"]["broken"]:
            told = answer and answer["said"]["broken"]
            raise SystemExit(f"{name} fails undamaged: {verdict} {told}")
        for module in answer["modules"]:  # here, so that later workers need not
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        return said_from_json(answer["said"])

    def _fork(self, job: Job, deadline: float, *, bounded: bool) -> Worker:
        own = [self.sandbox.folder / "store", self.sandbox.run, self.sandbox.out]
        if self._sample is None:
            own.insert(0, self.sandbox.inputs)
        foreign = [str(self.sandbox.outside), "/dev/zero"]
        return Worker(job, own, foreign, deadline, bounded)


@contextlib.contextmanager
def _place(sandbox: Sandbox, options: argparse.Namespace) -> Iterator[Place]:
    if not options.bucket:
        yield OnDisk(sandbox)
        return
    from torture.failing_s3 import FailingS3

    with FailingS3("torture", options.failing, random.Random(options.seed)) as server:
        os.environ |= server.environment
        yield InBucket(sandbox, server.port, "torture", "a.store", server.proxy)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, help="stop then; default: when all is done")
    parser.add_argument("--most", type=int, help="damages at most")
    parser.add_argument("--share", type=float, default=0.01, help="part of the bytes; 1: every one")
    parser.add_argument("--genes", type=int, default=GENES, help="records of the store")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", default="*", help="pattern of paths, e.g. 'store/collections/*'")
    parser.add_argument("--operations", type=lambda text: text.split(","), default=[*OPERATIONS])
    parser.add_argument("--damages", type=lambda text: text.split(","), help=", ".join(ON_DISK))
    parser.add_argument("--bucket", action="store_true", help="an S3 server behind a proxy")
    parser.add_argument("--failing", type=float, default=0.2, help="part of the requests")
    parser.add_argument("--case", help="a failure's line: only that")
    parser.add_argument("--folder", help="where to work; default: the system's temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
