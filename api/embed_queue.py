"""Sequences in, embeddings out, in batches: one bounded queue, one model thread a recipe.

Whatever waits when a model is free runs together, up to so many tokens, whichever requests it
comes from. A view that several requests wait for runs once. Nothing is dropped silently: a ticket
ends with its embeddings, with an error, or because its owner cancelled it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from api.errors import EmbeddingFailed, NotReady, QueueFull, TimedOut
from api.metrics import Metrics
from embedstore.backbones.backbone import Embedded
from embedstore.backbones.devices import is_out_of_memory
from embedstore.build.plan import Item
from embedstore.errors import StoreError
from embedstore.store import Recipe

log = logging.getLogger(__name__)

LONGEST_RETRY = 60
"""Seconds; the most that a client is told to wait."""


class Keep(Protocol):
    """What is told of every batch that was made; never raises."""

    def __call__(self, recipe: Recipe, keys: list[str], embedded: Embedded) -> None:
        """Take a batch; called in a model thread."""


@dataclass(frozen=True, eq=False)
class Computed:
    """One embedding that was made for a request."""

    mean: NDArray[np.float32]
    """Shape (D,)."""
    tokens: NDArray[Any] | None
    """Stored dtype, shape (L, D); None where the request asked for means alone."""
    finite: bool
    """False where a value is NaN or does not fit the stored dtype."""


class Ticket:
    """What a request holds while its sequences wait."""

    def __init__(self, queue: EmbedQueue, keys: Sequence[str]) -> None:
        self._queue = queue
        self._left = set(keys)
        self._found: dict[str, Computed] = {}
        self._jobs: list[_Job] = []
        self.future: Future[dict[str, Computed]] = Future()
        """Embeddings by key, or the error of any of them."""

    def result(self, seconds: float) -> dict[str, Computed]:
        """Wait for all embeddings.

        Raises
        ------
        TimedOut
            They took longer; those that have not begun are dropped.
        """
        try:
            return self.future.result(seconds)
        except TimeoutError:
            self.cancel()
            raise timed_out(seconds) from None

    def cancel(self) -> None:
        """Nobody waits any more: what has not begun, and no other request wants, is dropped."""
        self._queue.drop(self)

    def _take(self, key: str, computed: Computed) -> bool:
        """Note one embedding; True where that was the last."""
        self._left.discard(key)
        self._found[key] = computed
        return not self._left


@dataclass(eq=False)
class _Job:
    """One view to embed, and who waits for it."""

    recipe: Recipe
    item: Item
    tickets: list[Ticket]
    rows: bool
    """Whether anybody wants more than the mean."""
    begun: bool = False


@dataclass(eq=False)
class _Line:
    """The jobs of one recipe, and the thread that does them."""

    waiting: OrderedDict[_Job, None] = field(default_factory=OrderedDict)
    """Oldest first; whatever is dropped leaves at once."""
    running: list[_Job] = field(default_factory=list)
    """The batch that the model has."""
    by_key: dict[str, _Job] = field(default_factory=dict)
    """Jobs that wait or run; of two for one key the later."""
    thread: threading.Thread | None = None
    batch_tokens: int = 0
    """Lowered for good when the device runs out of memory."""


class EmbedQueue:
    """Jobs of all requests; the bound is on the tokens that wait, over all recipes."""

    def __init__(
        self,
        embed: Callable[[Recipe, Sequence[Item]], Embedded],
        metrics: Metrics,
        *,
        max_queued_tokens: int,
        batch_tokens: int,
        keep: Keep | None = None,
    ) -> None:
        """Start nothing yet: a recipe's thread begins with its first job.

        Parameters
        ----------
        embed : runs one batch; called in model threads alone
        keep : told every batch that was made
        """
        self._embed, self._metrics, self._keep = embed, metrics, keep
        self._limit, self._batch_tokens = max_queued_tokens, batch_tokens
        self._lines: dict[str, _Line] = {}
        self._changed = threading.Condition()
        self._tokens = self._sequences = 0  # that wait
        self._rate = 0.0  # tokens a second, of late
        self._open = True

    @property
    def open(self) -> bool:
        """False once the server is ending."""
        return self._open

    @property
    def waiting(self) -> tuple[int, int]:
        """Sequences and tokens that have not begun."""
        with self._changed:
            return self._sequences, self._tokens

    def submit(self, recipe: Recipe, items: Sequence[Item], *, rows: bool) -> Ticket:
        """Queue views, all or none of them.

        Parameters
        ----------
        rows : whether per-token embeddings are wanted, or means alone

        Raises
        ------
        QueueFull
            Their tokens do not fit beside what waits already. A request that is larger than the
            whole queue is taken when nothing waits.
        NotReady
            The server is ending.
        """
        ticket = Ticket(self, [item.key for item in items])
        with self._changed:
            if not self._open:
                raise NotReady("The server is ending.", "Ask again when it is back.", 5)
            line = self._lines.setdefault(recipe.name, _Line(batch_tokens=self._batch_tokens))
            fresh = [item for item in items if _must_run(line.by_key.get(item.key), rows)]
            tokens = sum(item.cost for item in fresh)
            if self._tokens and fresh and self._tokens + tokens > self._limit:
                self._metrics.refused.inc()
                raise QueueFull(
                    f"{self._tokens} tokens wait for models, and {tokens} more are too many.",
                    "Ask again later, or send fewer sequences at a time.",
                    self._retry_after(),
                )
            for item in items:
                self._join_or_add(line, recipe, item, ticket, rows)
            self._note()
            if not items:
                ticket.future.set_result({})
            elif line.thread is None or not line.thread.is_alive():
                name = f"model {recipe.name}"
                line.thread = threading.Thread(
                    target=self._work, args=(line,), name=name, daemon=True
                )
                line.thread.start()
            self._changed.notify_all()
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Let go of a ticket; see `Ticket.cancel`."""
        with self._changed:
            for job in ticket._jobs:
                job.tickets = [each for each in job.tickets if each is not ticket]
                if not job.tickets and not job.begun:
                    line = self._lines[job.recipe.name]
                    if job in line.waiting:
                        del line.waiting[job]
                        self._count(job, -1)
                    if line.by_key.get(job.item.key) is job:
                        del line.by_key[job.item.key]
            self._note()
        ticket.future.cancel()

    def close(self, seconds: float) -> None:
        """Take nothing more, finish what waits, and end the threads.

        Whatever is not done by then fails with `NotReady`.
        """
        until = time.monotonic() + seconds
        with self._changed:
            self._open = False
            self._changed.notify_all()
            threads = [line.thread for line in self._lines.values() if line.thread is not None]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        late = NotReady("The server is ending.", "Ask again when it is back.", 5)
        with self._changed:
            lines = self._lines.values()
            jobs = [job for line in lines for job in (*line.running, *line.waiting)]
        self._fail(jobs, late)

    def _join_or_add(
        self, line: _Line, recipe: Recipe, item: Item, ticket: Ticket, rows: bool
    ) -> None:
        job = line.by_key.get(item.key)
        if job is None or _must_run(job, rows):
            job = _Job(recipe, item, [ticket], rows)
            line.by_key[item.key] = job
            line.waiting[job] = None
            self._count(job, +1)
        else:
            job.tickets.append(ticket)
            job.rows |= rows
        ticket._jobs.append(job)

    def _work(self, line: _Line) -> None:
        """A model thread: batches of one recipe, until the queue is closed and empty."""
        while batch := self._next_batch(line):
            began = time.monotonic()
            try:
                self._run(line, batch)
            except Exception:  # a mistake of ours, after the model: nobody is left waiting for it
                log.exception("handing out a batch failed")
                self._fail(batch, EmbeddingFailed("A batch failed.", "The server's log says how."))
            tokens = sum(job.item.cost for job in batch)
            rate = tokens / max(time.monotonic() - began, 1e-6)
            with self._changed:
                self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate

    def _next_batch(self, line: _Line) -> list[_Job]:
        """What waits, oldest first, as much as fits one forward pass; none: there is no more."""
        with self._changed:
            while True:
                batch: list[_Job] = []
                tokens = 0
                while line.waiting:
                    job = next(iter(line.waiting))
                    if batch and tokens + job.item.cost > line.batch_tokens:
                        break
                    del line.waiting[job]
                    job.begun = True
                    batch.append(job)
                    tokens += job.item.cost
                    self._count(job, -1)
                line.running = batch
                if batch or not self._open:
                    self._note()
                    return batch
                self._changed.wait()

    def _run(self, line: _Line, batch: list[_Job]) -> None:
        """Embed a batch; one that fails is halved, so that only the sequence at fault fails."""
        items, recipe = [job.item for job in batch], batch[0].recipe
        tokens = sum(item.cost for item in items)
        full = False
        try:
            embedded = self._embed(recipe, items)
        except StoreError as error:  # the backbone cannot be had: it would say so of each half
            self._fail(batch, error)
            return
        except Exception as error:
            embedded = None
            full = is_out_of_memory(error)
            if full:
                line.batch_tokens = max(1, tokens // 2)
                log.warning("out of memory: batches now hold %d tokens", line.batch_tokens)
            if len(batch) == 1:
                log.exception("%s failed on key %s", recipe.name, items[0].key)
        if embedded is not None:
            self._metrics.tokens.labels(recipe.name).inc(tokens)
            self._metrics.batch_tokens.observe(tokens)
            self._deliver(line, batch, embedded)
            if self._keep is not None:
                self._keep(recipe, [item.key for item in items], embedded)
        elif len(batch) > 1:  # outside the handler, which would keep the memory alive
            half = len(batch) // 2
            self._run(line, batch[:half])
            self._run(line, batch[half:])
        else:
            problem = f"{recipe.backbone} failed on a sequence (key {items[0].key})."
            fix = "The server's log says how; leave that sequence out."
            if full:
                problem = (
                    f"A sequence of {tokens} tokens (key {items[0].key}) is too long for the "
                    "memory of the server's device."
                )
                fix = "Leave it out, or build it into the store with --long window."
            self._fail(batch, EmbeddingFailed(problem, fix))

    def _deliver(self, line: _Line, batch: list[_Job], embedded: Embedded) -> None:
        ends = np.cumsum(embedded.lengths).tolist()
        starts = [0, *ends[:-1]]
        with self._changed:
            for at, job in enumerate(batch):
                if line.by_key.get(job.item.key) is job:
                    del line.by_key[job.item.key]
                rows = embedded.tokens[starts[at] : ends[at]]
                if len(batch) > 1:
                    rows = rows.copy() if job.rows else rows[:0]  # else it holds the whole batch
                computed = Computed(
                    mean=embedded.mean[at],
                    tokens=rows if job.rows else None,
                    finite=bool(embedded.finite[at]),
                )
                for ticket in job.tickets:
                    if ticket._take(job.item.key, computed):
                        _settle(ticket.future, ticket._found)

    def _fail(self, batch: Sequence[_Job], error: StoreError) -> None:
        with self._changed:
            for job in batch:
                line = self._lines[job.recipe.name]
                if line.by_key.get(job.item.key) is job:
                    del line.by_key[job.item.key]
                if job in line.waiting:
                    del line.waiting[job]
                    self._count(job, -1)
            for ticket in [ticket for job in batch for ticket in job.tickets]:
                _settle(ticket.future, error)
                self.drop(ticket)  # its other views need not run for it

    def _count(self, job: _Job, sign: int) -> None:
        self._sequences += sign
        self._tokens += sign * job.item.cost

    def _note(self) -> None:
        self._metrics.queue_sequences.set(self._sequences)
        self._metrics.queue_tokens.set(self._tokens)

    def _retry_after(self) -> int:
        """Seconds until about half of what waits is done."""
        if not self._rate:
            return 1
        return min(LONGEST_RETRY, max(1, math.ceil(self._tokens / self._rate / 2)))


def _must_run(job: _Job | None, rows: bool) -> bool:
    """Whether a view needs a job of its own.

    One that runs already for its mean alone will not hand out rows.
    """
    return job is None or (job.begun and rows and not job.rows)


def timed_out(seconds: float) -> TimedOut:
    """The error of a request whose embeddings were not made in time."""
    return TimedOut(
        f"The embeddings were not made within {seconds:.0f} s.",
        "Send fewer sequences at a time, ask again later, or build them into the store.",
    )


def _settle(future: Future[Any], outcome: Any) -> None:
    """Give a future its result or error, unless its owner has cancelled it or it has one.

    Called under the queue's lock, so that no two threads settle one.
    """
    if not future.done() and future.set_running_or_notify_cancel():
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
