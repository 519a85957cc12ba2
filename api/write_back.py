"""Newly made embeddings kept in the store: batches in, published segments out.

Batches of one recipe gather in a draft for some seconds, so that the store does not fill with tiny
segments, and are then published as a build publishes them. A disk that refuses costs the
embeddings of that draft, which can be made again, and no request.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from api.metrics import Metrics
from embedstore import RecipeReader, Store
from embedstore.backbones.backbone import Embedded
from embedstore.errors import MissingRecipe, StoreError
from embedstore.store import Recipe
from embedstore.store.segment import SegmentWriter

log = logging.getLogger(__name__)

SEGMENT_BYTES = 128 << 20
"""Embeddings after which a draft is published at once."""
WAITING_BATCHES = 16
"""Batches that may wait for the disk; those beyond are not kept."""

Batch = tuple[Recipe, list[str], Embedded]


class _Draft:
    """Embeddings of one recipe that are not published yet."""

    def __init__(self, store: Store, recipe: Recipe) -> None:
        self.writer = SegmentWriter(store.recipe_folder(recipe.name), recipe)
        self.keys: set[str] = set()
        self.bytes = 0
        self.began = time.monotonic()


class WriteBack:
    """A thread that writes. Use `keep` for every batch and `close` at the end."""

    def __init__(
        self,
        store: Store,
        reader: Callable[[str], RecipeReader],
        provenance: dict[str, object],
        metrics: Metrics,
        seconds: float,
        leave_out: Callable[[Recipe], bool] = lambda _: False,
    ) -> None:
        """Start the thread.

        Parameters
        ----------
        reader : the reader of a recipe, to see what was stored meanwhile
        provenance : kept in `segment.json`
        seconds : how long a draft gathers
        leave_out : recipes whose embeddings are not kept
        """
        self._store, self._reader, self._metrics = store, reader, metrics
        self._provenance, self._seconds, self._leave_out = provenance, seconds, leave_out
        self._batches: queue.Queue[Batch | None] = queue.Queue(WAITING_BATCHES)
        self._drafts: dict[str, _Draft] = {}
        self._thread = threading.Thread(target=self._work, name="write-back", daemon=True)
        self._thread.start()

    def keep(self, recipe: Recipe, keys: list[str], embedded: Embedded) -> None:
        """Take a batch; never waits, never raises."""
        if self._leave_out(recipe):
            return
        try:
            self._batches.put_nowait((recipe, keys, embedded))
        except queue.Full:
            self._lose(len(keys), recipe, "the disk is too slow")

    def close(self, seconds: float) -> None:
        """Publish what there is and end the thread; a disk that hangs is waited for no longer."""
        until = time.monotonic() + seconds
        try:
            self._batches.put(None, timeout=seconds)
        except queue.Full:
            log.error("the disk is too slow: embeddings that wait for it are not written back")
        self._thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while True:
            due = [draft.began + self._seconds for draft in self._drafts.values()]
            wait = max(0.0, min(due) - time.monotonic()) if due else None
            try:
                batch = self._batches.get(timeout=wait)
            except queue.Empty:
                batch = ()  # type: ignore[assignment]  # a draft is due
            if batch:
                self._guarded(batch[0], len(batch[1]), partial(self._append, *batch))
            for name, draft in list(self._drafts.items()):
                late = time.monotonic() - draft.began >= self._seconds
                if batch is None or late or draft.bytes >= SEGMENT_BYTES:
                    self._publish(name)
            if batch is None:
                return

    def _append(self, recipe: Recipe, keys: list[str], embedded: Embedded) -> None:
        self._store.write_recipe(recipe)
        draft = self._drafts.get(recipe.name)
        held: set[str] = set() if draft is None else draft.keys
        try:
            reader = self._reader(recipe.name)
            reader.check_whole()
            stored = reader.has(keys)
        except MissingRecipe:  # written a moment ago, in a bucket that is not listed again yet
            stored = np.zeros(len(keys), np.bool_)
        fresh = np.array([key not in held for key in keys]) & ~stored & embedded.finite
        if not fresh.any():
            return
        if draft is None:
            draft = self._drafts[recipe.name] = _Draft(self._store, recipe)
        draft.writer.append(keys, _only(embedded, fresh))
        draft.keys.update(key for key, new in zip(keys, fresh.tolist(), strict=True) if new)
        draft.bytes += int(embedded.lengths[fresh].sum()) * embedded.tokens.itemsize * recipe.width

    def _publish(self, name: str) -> None:
        draft = self._drafts.pop(name)

        def publish() -> None:
            draft.writer.publish(self._provenance)
            self._metrics.written_back.labels("published").inc(len(draft.keys))

        try:
            self._guarded(draft.writer.recipe, len(draft.keys), publish)
        finally:
            draft.writer.close()

    def _guarded(self, recipe: Recipe, count: int, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # the thread goes on, whatever it is
            if not isinstance(error, StoreError):
                log.exception("writing back failed")
            draft = self._drafts.pop(recipe.name, None)
            if draft is not None:
                count += len(draft.keys)
                draft.writer.close()
            self._lose(count, recipe, str(error))

    def _lose(self, count: int, recipe: Recipe, why: str) -> None:
        self._metrics.written_back.labels("lost").inc(count)
        log.error("%d embeddings of %s were not written back: %s", count, recipe.name, why)


def _only(embedded: Embedded, kept: NDArray[np.bool_]) -> Embedded:
    """A batch without those that are not kept: `SegmentWriter` leaves out what is not finite."""
    return Embedded(embedded.tokens, embedded.lengths, embedded.mean, embedded.cls, kept)
