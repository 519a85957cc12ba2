"""Answers kept in memory: a look-up in; the bytes sent before out, while the store is unchanged.

An answer is kept with the stamps, taken before anything was read, of every file and folder that
it depends on. It is sent again only where each stamp is still the same, so what a build, a repair
or damage changes on disk is seen at once.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from fastapi import Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.catalogue import TICK, Catalogue, Stamp, stamp_of
from api.metrics import Metrics
from api.representations import known_tags
from embedstore.store.objects import Place
from embedstore.store.segment import TOKENS_SHARD

MEANS = "mean/c/0/0"
"""Averages of a segment."""
LARGEST = 8
"""An answer takes at most this part of the memory, as 1 / LARGEST."""
OVERHEAD = 2_048
"""Bytes that an entry takes besides its body, about."""

Watched = list[tuple[Place, Stamp]]
Name = tuple[str, bytes, bytes]


@dataclass(frozen=True, eq=False)
class _Answer:
    headers: list[tuple[bytes, bytes]]
    body: bytes
    tag: str
    route: str
    watched: Watched

    @property
    def size(self) -> int:
        return len(self.body) + OVERHEAD

    def is_current(self) -> bool:
        """Whether nothing has changed on disk."""
        for path, stamp in self.watched:  # noqa: SIM110  # a generator costs as much as a look
            if stamp_of(path) != stamp:
                return False
        return True


class AnswerShelf:
    """Answers by what was asked, the one used longest ago let go first; threads share it."""

    def __init__(self, catalogue: Catalogue, metrics: Metrics, bytes: int) -> None:
        """Keep nothing yet.

        Parameters
        ----------
        bytes : memory for answers; 0: none is kept
        """
        self._catalogue, self._limit = catalogue, bytes
        self._held: OrderedDict[Name, _Answer] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        self._hits = metrics.answers.labels("hit")
        self._misses = metrics.answers.labels("miss")

    def watch(
        self, recipe: str, key: str, collection: str | None = None, *, pooled: bool
    ) -> Watched:
        """Stamps of all that an answer depends on; take them before the answer is made."""
        file = MEANS if pooled else TOKENS_SHARD
        return self._catalogue.watch(recipe, key, collection, file) if self._limit else []

    def keep(self, request: Request, response: Response, watched: Watched) -> None:
        """Hold an answer, if it is one and small enough."""
        body = bytes(response.body)
        newest = max((stamp[0] for _, stamp in watched if stamp is not None), default=0)
        # a file that changes twice within a tick of its clock keeps its stamp
        if response.status_code != 200 or not watched or newest > time.time_ns() - TICK:
            return
        answer = _Answer(
            headers=response.raw_headers,
            body=body,
            tag=response.headers["etag"],
            route=getattr(request.scope.get("route"), "path", ""),
            watched=watched,
        )
        if answer.size > self._limit // LARGEST:
            return
        name = _name(request.scope)
        with self._lock:
            self._drop(name)
            self._held[name] = answer
            self._bytes += answer.size
            while self._bytes > self._limit:
                self._drop(next(iter(self._held)))

    def find(self, scope: Scope) -> _Answer | None:
        """The answer to a request, if it is held and current."""
        name = _name(scope)
        with self._lock:
            answer = self._held.get(name)
            if answer is not None:
                self._held.move_to_end(name)
        if answer is None:
            return None
        if not answer.is_current():
            with self._lock:
                if self._held.get(name) is answer:
                    self._drop(name)
            return None
        return answer

    def count(self, *, hit: bool) -> None:
        """Note where a look-up was answered from."""
        (self._hits if hit else self._misses).inc()

    def _drop(self, name: Name) -> None:
        answer = self._held.pop(name, None)
        if answer is not None:
            self._bytes -= answer.size


class Answers:
    """ASGI middleware behind the gate: look-ups that are held never reach a route."""

    def __init__(self, app: ASGIApp, shelf: AnswerShelf) -> None:
        self.app, self._shelf = app, shelf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        looked_up = path.startswith(("/v1/collections/", "/v1/embeddings/"))
        if not looked_up or scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        answer = self._shelf.find(scope)
        self._shelf.count(hit=answer is not None)
        if answer is None:
            await self.app(scope, receive, send)
            return
        scope["route_template"] = answer.route
        known = b",".join(_values(scope, b"if-none-match")).decode("latin-1")
        if known and (known.strip() == "*" or answer.tag in known_tags(known)):
            headers = [each for each in answer.headers if not each[0].startswith(b"content-")]
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": 200, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})


def _name(scope: Scope) -> Name:
    return scope["path"], scope["query_string"], b",".join(_values(scope, b"accept"))


def _values(scope: Scope, header: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == header]
