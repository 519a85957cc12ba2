"""Records and a recipe in; embeddings out, stored ones from the store and others from the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from api.catalogue import Catalogue
from api.embed_queue import Computed, EmbedQueue, Ticket, timed_out
from api.embedder import Embedder
from api.errors import ClientGone
from api.metrics import Metrics
from embedstore import RecipeReader
from embedstore.build.plan import Item, distinct_views
from embedstore.records import Record
from embedstore.store import Recipe
from embedstore.store.failures import Failure


@dataclass(frozen=True, eq=False)
class Found:
    """The distinct views of some records, and where the embedding of each comes from."""

    recipe: Recipe
    reader: RecipeReader | None
    """None where the store has nothing under the recipe."""
    key_of: dict[str, str]
    """Key of each readable record, by the record's id."""
    stored: dict[str, int]
    """Key to token rows, of what the store has."""
    new: dict[str, Item]
    """By key, what is to be computed."""
    why: dict[str, Failure] = field(default_factory=dict)
    """Why a record has no embedding, by its id."""

    def rows(self, key: str) -> int:
        """Token rows of an embedding."""
        return self.stored[key] if key in self.stored else self.new[key].count

    def note_lost(self, computed: dict[str, Computed]) -> None:
        """Make failures of the records whose embeddings are not finite."""
        detail = f"a value is not finite in {self.recipe.store_dtype}"
        for name, key in self.key_of.items():
            if key in computed and not computed[key].finite:
                self.why[name] = Failure(name, self.recipe.view, "not-finite", detail)


class Supply:
    """Where routes get embeddings of sequences; the one way to a model."""

    def __init__(
        self,
        catalogue: Catalogue,
        embedder: Embedder,
        queue: EmbedQueue,
        metrics: Metrics,
        seconds: float,
    ) -> None:
        self._catalogue, self._embedder, self._queue = catalogue, embedder, queue
        self._metrics, self._seconds = metrics, seconds

    def find(self, recipe: Recipe, records: Sequence[Record], own: Path | None = None) -> Found:
        """Views, and which of them the store has; runs no model. Blocks: call it in a thread.

        Parameters
        ----------
        own : weights that came with a fine-tuned probe, in the place of the server's

        Raises
        ------
        MissingWeights, NotInstalled
            A record is not stored, and the recipe cannot be made here.
        DamagedSegment
        """
        texts, ids, failures = distinct_views(records, recipe.view)
        reader, stored = self._stored(recipe, list(texts))
        key_of = {name: key for key, names in ids.items() for name in names}
        absent = texts.keys() - stored
        missing = [each for each in records if key_of.get(each.id, "") in absent]
        items: dict[str, Item] = {}
        if missing:
            plan = self._embedder.plan(recipe, missing, own)
            failures += plan.failures
            items = {item.key: item for batch in plan.batches for item in batch}
        why = {failure.id: failure for failure in failures}
        readable = {name: key for name, key in key_of.items() if name not in why}
        return Found(recipe, reader, readable, stored, items, why)

    def means(self, found: Found, computed: dict[str, Computed]) -> dict[str, NDArray[np.float32]]:
        """The average over tokens of every embedding, by key: float32, shape (D,)."""
        means = {key: each.mean for key, each in computed.items()}
        if found.stored:
            assert found.reader is not None
            keys = list(found.stored)
            means.update(zip(keys, found.reader.means(keys), strict=True))
        return means

    def tokens(self, found: Found, computed: dict[str, Computed]) -> dict[str, NDArray[Any]]:
        """Every per-token embedding, by key: stored dtype, shape (L, D)."""
        tokens = {key: each.tokens for key, each in computed.items() if each.tokens is not None}
        if found.stored:
            assert found.reader is not None
            keys = list(found.stored)
            tokens.update(zip(keys, found.reader.batch(keys).split(), strict=True))
        return tokens

    def submit(self, found: Found, *, rows: bool) -> Ticket | None:
        """Queue what is not stored, with or without its per-token rows; None: all is stored.

        Raises
        ------
        QueueFull, NotReady
        """
        ticket = None
        if found.new:
            ticket = self._queue.submit(found.recipe, list(found.new.values()), rows=rows)
        self._metrics.embeddings.labels("stored").inc(len(found.stored))
        self._metrics.embeddings.labels("computed").inc(len(found.new))
        return ticket

    async def wait(
        self, ticket: Ticket | None, found: Found, request: Request
    ) -> dict[str, Computed]:
        """What was computed, by key; those that are not finite become failures of `found`.

        Raises
        ------
        TimedOut, EmbeddingFailed, NotReady
        ClientGone
            The client has closed the connection: what has not begun is dropped.
        """
        if ticket is None:
            return {}
        answer = asyncio.wrap_future(ticket.future)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            both: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(both, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                computed = answer.result()
                found.note_lost(computed)
                return {key: each for key, each in computed.items() if each.finite}
            if gone.done():
                raise ClientGone("The client has gone.", "Nobody reads this.")
            raise timed_out(self._seconds)
        finally:
            gone.cancel()
            if not answer.done():
                ticket.cancel()

    def _stored(
        self, recipe: Recipe, keys: list[str]
    ) -> tuple[RecipeReader | None, dict[str, int]]:
        if recipe.name not in self._catalogue.recipes():
            return None, {}
        reader = self._catalogue.reader(recipe.name)
        if not reader.has(keys).all():
            reader.check_whole()  # what may only be unreadable is not made a second time
        there = [key for key, has in zip(keys, reader.has(keys), strict=True) if has]
        return reader, dict(zip(there, reader.lengths(there).tolist(), strict=True))


async def _disconnected(request: Request) -> None:
    """Ends when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
