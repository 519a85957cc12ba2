"""Every request is named, counted and logged: the outermost layer of the app."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import NotReady, error_response, internal_response
from api.logs import FIELDS, REQUEST_ID
from api.metrics import Metrics

log = logging.getLogger(__name__)

HEADER = b"x-request-id"
_SANE = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_NO_ROUTE = "none"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Access:
    """ASGI middleware: an id for each request, a line in the log, and its metrics.

    The client's X-Request-ID is kept where it is short and plain, and comes back in any case.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics
        # the children of a metric are held: finding them costs more than counting
        self._counters: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        name = _request_id(scope)
        status = size = 0

        async def noting(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER, name)]}
            else:
                size += len(message.get("body", b""))
            await send(message)

        token = REQUEST_ID.set(name.decode())
        try:
            await self.app(scope, receive, noting)
        except asyncio.CancelledError:  # the server ends, and has waited long enough
            if not status:
                late = NotReady("The server is ending.", "Ask again when it is back.", 5)
                await error_response(late)(scope, receive, noting)
            raise
        except Exception:
            # uvicorn logs what is raised; the client gets an answer that tells nothing of it
            if not status:
                await internal_response()(scope, receive, noting)
            raise
        finally:
            self._note(scope, status or 500, size, time.perf_counter() - began)
            REQUEST_ID.reset(token)

    def _note(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        route, method = route_of(scope), scope["method"]
        if method not in _METHODS:
            method = "OTHER"  # a client must not be able to make new series
        counter, histogram = self._counters.get((method, route, status)) or self._find(
            method, route, status
        )
        counter.inc()
        histogram.observe(seconds)
        if log.isEnabledFor(logging.INFO):
            fields: dict[str, Any] = {
                "method": method,
                "route": route,
                "status": status,
                "bytes": size,
                "seconds": round(seconds, 6),
            }
            # not log.info, which looks for the line of code that calls it, for a third of the cost
            record = logging.LogRecord(log.name, logging.INFO, "", 0, "request", (), None)
            setattr(record, FIELDS, fields)
            log.handle(record)

    def _find(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        found = (
            self._metrics.requests.labels(method, route, str(status)),
            self._metrics.seconds.labels(method, route),
        )
        self._counters[method, route, status] = found
        return found


def route_of(scope: Scope) -> str:
    """Template of the route that answered, e.g. `/v1/models/{id}`; never the path itself."""
    named: str | None = scope.get("route_template")
    if named is not None:
        return named
    return getattr(scope.get("route"), "path", _NO_ROUTE)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == HEADER and _SANE.fullmatch(value):
            given: bytes = value
            return given
    return secrets.token_hex(16).encode()
