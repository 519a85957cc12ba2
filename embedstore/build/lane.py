"""A thread that does jobs in order, a bounded number behind; it may fail but never hang us."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from embedstore.errors import StoreError

TICK = 0.2
"""Seconds between looks at a busy lane."""
LAST_JOB = 10.0
"""Seconds that the job in hand gets to end when the caller fails."""


class StalledLane(StoreError):
    """A job has made no progress for too long."""

    code = "stalled"


class Lane:
    """Runs jobs one after another beside the caller. Use as a context manager.

    Leaving normally waits for every job; leaving with an error drops those not begun. What a job
    raises is raised in the caller, at its next `put` or on leaving, and later jobs are dropped.
    """

    def __init__(self, name: str, *, depth: int = 2, patience: float = 600.0) -> None:
        """Start the thread.

        Parameters
        ----------
        depth : jobs that may wait; `put` blocks beyond
        patience : seconds one job may take before the lane counts as stalled
        """
        self.name, self.patience = name, patience
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._dropping = False
        self._began = time.monotonic()
        # a daemon: a job stuck in the kernel must not keep the process alive
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], None]) -> None:
        """Hand a job over.

        Raises
        ------
        StalledLane
            The lane is full and its job has used up its patience.
        BaseException
            Whatever an earlier job raised.
        """
        self._hand_over(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._dropping = True
            self._thread.join(LAST_JOB)
            return
        self._hand_over(None)
        while self._thread.is_alive():
            self._thread.join(TICK)
            self._check()
        self._check()

    def _hand_over(self, job: Callable[[], None] | None) -> None:
        while True:
            self._check()
            try:
                self._jobs.put(job, timeout=TICK)
            except queue.Full:
                continue
            return

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if not self._jobs.empty() and time.monotonic() - self._began > self.patience:
            raise StalledLane(
                f"{self.name} has made no progress for {self.patience:.0f} s.",
                "Check the disk or network of the store, then run the same command again.",
            )

    def _work(self) -> None:
        while not self._dropping:
            try:
                job = self._jobs.get(timeout=TICK)
            except queue.Empty:
                self._began = time.monotonic()
                continue
            if job is None:
                return
            self._began = time.monotonic()
            try:
                job()
            except BaseException as error:  # it is raised again in the caller
                self._error = error
                return
