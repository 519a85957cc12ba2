"""Neighbour indexes as a server holds them: opened and made in the background, then kept.

A request for an index that is not there yet waits a moment, then is told when to come again. Where
segments have come or gone, the old index answers, and says so, until the new one is made.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Lock, Thread

from api.catalogue import Catalogue, Stamp, stamp_of
from api.errors import NotReady
from embedstore.errors import StoreError
from embedstore.neighbors import Metric, NeighborIndex, open_neighbors
from embedstore.neighbors.build import segments_digest
from embedstore.neighbors.open import load_current, load_latest
from embedstore.store.objects import ObjectPath

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""How long a request waits for an index that is being made."""
RETRY_SECONDS = 5
"""When a client should ask again."""
AGAIN_SECONDS = 30.0
"""How long a failure stands before the index is tried again, where nothing changed on disk."""


@dataclass(frozen=True)
class Served:
    """An index, and whether the store has changed since it was made."""

    index: NeighborIndex
    stale: bool


@dataclass
class _Held:
    """What is known of one recipe and metric; changed under the lock of its owner."""

    index: NeighborIndex | None = None
    error: StoreError | None = None
    seen: Stamp = None
    """Of the folder of segments that the index, or the error, was made from."""
    listed: str = ""
    """Digest of the segments that were in it, damaged ones too."""
    at: float = 0.0
    pending: bool = False
    ready: Event = field(default_factory=Event)


class Neighborhoods:
    """Indexes by recipe and metric; one thread makes them, one after another."""

    def __init__(self, catalogue: Catalogue, exact_max: int) -> None:
        self._catalogue, self._exact_max = catalogue, exact_max
        self._lock = Lock()
        self._held: dict[tuple[str, Metric], _Held] = {}
        self._wanted: SimpleQueue[tuple[str, Metric]] = SimpleQueue()
        self._thread: Thread | None = None

    def index(self, recipe: str, metric: Metric) -> Served:
        """The index of a recipe, by its folder name; what is missing is begun.

        Raises
        ------
        NotReady
            It is being made for the first time.
        MissingEmbedding, DamagedSegment
            It cannot be made.
        """
        stamp = self._stamp(recipe)
        with self._lock:
            held = self._held.setdefault((recipe, metric), _Held())
        if held.index is not None and held.seen != stamp and self._is_current(recipe, held):
            held.seen = stamp  # the folder was touched, no more
        with self._lock:
            tired = held.error is not None and time.monotonic() - held.at > AGAIN_SECONDS
            if not held.pending and (held.at == 0.0 or held.seen != stamp or tired):
                held.pending, held.error = True, None
                if held.index is None:
                    held.ready.clear()
                self._wanted.put((recipe, metric))
                self._start()
        held.ready.wait(WAIT_SECONDS)
        with self._lock:
            if held.index is not None:
                return Served(held.index, stale=held.pending or held.seen != stamp)
            if held.error is not None:
                raise type(held.error)(held.error.problem, held.error.fix)
        raise NotReady(
            f"The {metric} neighbours of {recipe} are being prepared.",
            f"Ask again in {RETRY_SECONDS} seconds; large stores take minutes, once.",
            retry_after=RETRY_SECONDS,
        )

    def _is_current(self, recipe: str, held: _Held) -> bool:
        """Whether the segments are those that the index was made from.

        A segment that was damaged may be whole again under its old name: on disk its coming back
        changes the stamp; of a bucket, whose stamp is only the time, nobody can tell.
        """
        names = self._catalogue.store.segment_names(recipe)
        again = held.index is not None and held.index.info.excluded and not self._in_bucket
        return not again and held.listed == segments_digest(names)

    @property
    def _in_bucket(self) -> bool:
        return isinstance(self._catalogue.store.folder, ObjectPath)

    def _stamp(self, recipe: str) -> Stamp:
        return stamp_of(self._catalogue.store.recipe_folder(recipe) / "segments")

    def _start(self) -> None:
        if self._thread is None:
            # a daemon: an index half made is no reason to keep a server from ending
            self._thread = Thread(target=self._work, name="neighbors", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            recipe, metric = self._wanted.get()
            held = self._held[recipe, metric]
            stamp, listed = self._stamp(recipe), ""
            error: StoreError | None = None
            index: NeighborIndex | None = None
            try:
                listed = segments_digest(self._catalogue.store.segment_names(recipe))
                index = self._make(recipe, metric, held)
            except StoreError as failed:
                log.error("neighbours of %s: %s", recipe, failed)
                error = failed
            except Exception:
                log.exception("neighbours of %s", recipe)
                error = StoreError(
                    f"The neighbours of {recipe} could not be prepared.",
                    "The server's log says why.",
                )
            with self._lock:
                held.index, held.error, held.seen = index or held.index, error, stamp
                held.listed = listed if index else held.listed
                held.at, held.pending = time.monotonic(), False
                held.ready.set()

    def _make(self, recipe: str, metric: Metric, held: _Held) -> NeighborIndex:
        store = self._catalogue.store
        if held.index is None and (old := self._old(recipe, metric)) is not None:
            with self._lock:  # it answers while the new one is made
                held.index = old
                held.ready.set()
        began = time.monotonic()
        index = open_neighbors(store, recipe, metric, exact_max=self._exact_max)
        log.info(
            "%s neighbours of %s: %d vectors, %s, in %.1f s",
            *(metric, recipe, index.info.vectors, index.info.kind, time.monotonic() - began),
        )
        return index

    def _old(self, recipe: str, metric: Metric) -> NeighborIndex | None:
        """A saved index over other segments than there are now."""
        store = self._catalogue.store
        if load_current(store, recipe, metric, self._exact_max) is not None:
            return None
        return load_latest(store, recipe, metric)
