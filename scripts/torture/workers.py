"""Running an operation in a process that may hang, die or eat memory: a name in, a verdict out.

The parent has everything imported and nothing running; it forks a worker, which runs one operation
at a time on the sandbox and answers through a pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torture.judging import (
    DEATH,
    FOLLOWED,
    HANG,
    MEMORY,
    OUTSIDE,
    TRACEBACK,
    Item,
    Said,
    Verdict,
)
from torture.watch import Audit, Watch

DEADLINE_SECONDS = 10.0
MOST_DEADLINES = 3
"""Deadlines that pass before a process that works, but slowly, counts as one that hangs."""
MEMORY_BYTES = 512 << 20
ADDRESS_SPACE = 768 << 20
"""What a worker may map beyond what it has: the memory, and stacks of threads."""
M_ARENA_MAX, ARENAS = -8, 2


Job = Callable[[str, str], tuple[Said, Verdict]]
"""What a worker can do: an operation by name, on a damage as JSON."""


class Worker:
    """A forked process that runs one operation after another."""

    def __init__(
        self, job: Job, own: list[Path], foreign: list[str], deadline: float, bounded: bool
    ) -> None:
        self.deadline = deadline
        asked, ask = os.pipe()
        answers, answer = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                os.close(ask)
                os.close(answers)
                os.setsid()
                _serve(job, own, foreign, asked, answer, bounded)
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answer)
        self._ask, self._answers = ask, answers

    def run(self, operation: str, damage: str = "") -> tuple[Verdict, Any]:
        """Run one operation; after a hang or a death the worker is gone.

        Returns
        -------
        verdict, and all that the worker told: `said`, and the `modules` that it imported
        """
        os.write(self._ask, f"{operation} {damage}\n".encode())
        content = b""
        began, worked = time.monotonic(), self._worked()
        while not content.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], self.deadline)
            before, worked = worked, self._worked()
            late = time.monotonic() - began > MOST_DEADLINES * self.deadline
            if not ready and worked - before < self.deadline / 2 and worked > before and not late:
                continue  # on a busy machine it had no turn; one that waits does not work at all
            if not ready:
                self.close()
                return Verdict(HANG, f"no answer within {self.deadline:g} s"), None
            part = os.read(self._answers, 1 << 20)
            if not part:
                _, status = os.waitpid(self.process, 0)
                self.process = 0
                self.close()
                number = os.waitstatus_to_exitcode(status)
                name = signal.Signals(-number).name if number < 0 else f"exit {number}"
                return Verdict(DEATH, name), None
            content += part
        answer = json.loads(content)
        return Verdict(answer["outcome"], answer["text"]), answer

    def _worked(self) -> float:
        """Seconds of processor time of the process so far."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process and what it started."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self.process = 0
        for handle in (self._ask, self._answers):
            with contextlib.suppress(OSError):
                os.close(handle)
        self._ask = self._answers = -1


def _serve(
    job: Job,
    own: list[Path],
    foreign: list[str],
    asked: int,
    answer: int,
    bounded: bool,
) -> None:
    """The worker: until the parent closes the pipe."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(quiet, handle)
    gc.freeze()
    threading.stack_size(1 << 20)
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    if bounded:
        size = _status("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    os.chdir(own[-1])
    audit = Audit(own, foreign)
    with os.fdopen(asked) as lines:
        for line in lines:
            operation, _, damage = line.strip().partition(" ")
            audit.written.clear()
            audit.followed.clear()
            there = set(sys.modules)
            said, outcome = _run(job, operation, damage, audit)
            document = {
                "outcome": outcome.outcome,
                "text": outcome.text[:1000],
                "said": said,
                "modules": [name for name in sys.modules if name not in there],
            }
            text = json.dumps(document)
            content = f"{text}\n".encode()
            while content:
                content = content[os.write(answer, content) :]


def _run(job: Job, operation: str, damage: str, audit: Audit) -> tuple[Any, Verdict]:
    before = _forget_peak()
    audit.on = True
    said = Said()
    try:
        said, outcome = job(operation, damage)
    except MemoryError as error:
        outcome = Verdict(MEMORY, f"MemoryError: {error}")
    except BaseException as error:
        from torture.operations import last_lines

        outcome = Verdict(TRACEBACK, last_lines(error))
    finally:
        audit.on = False
    grown = _status("VmHWM") - before
    if "MemoryError" in outcome.text and outcome.outcome == TRACEBACK:
        outcome = Verdict(MEMORY, outcome.text)
    if grown > MEMORY_BYTES:
        outcome = Verdict(MEMORY, f"{grown >> 20} MB more")
    if audit.written:
        outcome = Verdict(OUTSIDE, ", ".join(audit.written[:3]))
    elif audit.followed:
        outcome = Verdict(FOLLOWED, ", ".join(audit.followed[:3]))
    return said_as_json(said), outcome


def said_as_json(said: Said) -> Any:
    """As JSON, to cross processes."""
    return asdict(said)


def said_from_json(document: Any) -> Said:
    """What `said_as_json` made."""
    items = {name: Item(**each) for name, each in document["items"].items()}
    broken = document["broken"]
    return Said(items, document["text"], None if broken is None else (broken[0], broken[1]))


def _status(name: str) -> int:
    """Bytes that the kernel tells of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise KeyError(name)


def _forget_peak() -> int:
    """Set the peak of resident memory back to what is resident; gives that."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def look_outside(watch: Watch, verdict: Verdict) -> Verdict:
    """The verdict, unless something outside was changed or opened."""
    changed, opened = watch.seen()
    if changed:
        return Verdict(OUTSIDE, ", ".join(changed[:3]))
    if opened:
        return Verdict(FOLLOWED, ", ".join(opened[:3]))
    return verdict
