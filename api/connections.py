"""Bounds on connections before there is a request: bytes, fields and time of headers, and number.

uvicorn's httptools protocol bounds none of these, and its bound on connections answers 503 to
newcomers while strangers who send nothing keep their places. This protocol adds the bounds and
leaves the rest to uvicorn. Measured by `scripts/bench_header_flood.py`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.errors import BadHead, LargeHead, NotReady, SlowHead, error_response
from api.settings import Settings
from embedstore.errors import StoreError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """What one server accepts of connections."""

    connections: int
    """Open ones."""
    head_bytes: int = 64 << 10
    """Request line and headers together."""
    head_fields: int = 100
    """Headers of one request."""
    head_seconds: float = 10.0
    """From the first byte, or the start of the connection, to the end of the headers."""


class Waiting:
    """Connections whose next request has not come whole, the one that waits longest first.

    Used on the event loop alone; each worker process has its own.
    """

    def __init__(self) -> None:
        self._connections: dict[BoundedProtocol, None] = {}

    def add(self, connection: BoundedProtocol) -> None:
        """Note a connection; one that is there keeps its place."""
        self._connections[connection] = None

    def discard(self, connection: BoundedProtocol) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    def first(self) -> BoundedProtocol | None:
        """The one that waits longest."""
        return next(iter(self._connections), None)


class BoundedProtocol(HttpToolsProtocol):
    """One HTTP/1.1 connection. A refusal is JSON, as of any route, and closes the connection."""

    def __init__(self, *arguments: Any, bounds: Bounds, waiting: Waiting, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds, self._waiting = bounds, waiting
        self._in_head = False
        self._head_bytes = 0
        self._quiet_bytes = 0
        """Since the request began or a piece of its body came: headers, trailers, chunk sizes."""
        self._refusal: StoreError | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, in place of the one that waits longest where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            longest = self._waiting.first()
            if longest is None:
                self._refuse(
                    NotReady("The server has no free connection.", "Ask again in a moment.", 1)
                )
                return
            longest._close_for_another()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, within the bounds."""
        if self.transport.is_closing():
            return
        self._quiet_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        # the parser copies all of an unfinished field whenever more of it comes
        if self._quiet_bytes > self._bounds.head_bytes:
            self._refuse(self._too_large())
        elif self.cycle is None or self.cycle.response_complete:
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._quiet_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header, or one field behind a body in chunks."""
        self._count(len(name) + len(value))
        if len(self.headers) >= self._bounds.head_fields:
            self._stop_parsing()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_head = False
        self._head_came()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._quiet_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Make the connection one of those that may be closed for another."""
        if self.cycle.more_body and not self.pipeline:
            # the answer came before the whole request: what follows is of no use to anyone
            self.transport.close()
        super().on_response_complete()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return
        if self._in_head:  # a part of the next request came with the last one
            self._unset_keepalive_if_required()
            self._await_head()
        else:
            self._waiting.add(self)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(self._refusal or BadHead(msg, "Send HTTP/1.1."))

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is not used."""
        self._waiting.discard(self)
        super().timeout_keep_alive_handler()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._bounds.head_bytes:
            self._stop_parsing()

    def _stop_parsing(self) -> None:
        """Raise what the parser turns into its own error, which `send_400_response` answers."""
        self._refusal = self._too_large()
        raise self._refusal

    def _await_head(self) -> None:
        self._waiting.add(self)
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._bounds.head_seconds, self._too_slow)

    def _head_came(self) -> None:
        self._waiting.discard(self)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        self._refuse(
            SlowHead(
                f"The headers did not arrive within {self._bounds.head_seconds:g} s.",
                "Send them at once.",
            )
        )

    def _too_large(self) -> LargeHead:
        return LargeHead(
            f"The headers have more than {self._bounds.head_bytes} bytes or "
            f"{self._bounds.head_fields} fields.",
            "Send fewer and shorter headers.",
        )

    def _close_for_another(self) -> None:
        """Give the place to a new connection; an idle one just ends, as after its time."""
        self._head_came()
        if self._in_head:
            self._refuse(SlowHead("Others wait for this connection.", "Send headers at once."))
            return
        self._unset_keepalive_if_required()
        self.transport.close()
        self.connections.discard(self)

    def _refuse(self, error: StoreError) -> None:
        """Answer in place of the app, and close."""
        self._head_came()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        log.info("%s: %s", error.code, error)
        if self.cycle is None or self.cycle.response_complete:
            response = error_response(error)
            lines = [STATUS_LINE[response.status_code]]
            for name, value in (*response.raw_headers, (b"connection", b"close")):
                lines += [name, b": ", value, b"\r\n"]
            self.transport.write(b"".join([*lines, b"\r\n", bytes(response.body)]))
        self.transport.close()
        self.connections.discard(self)


def bounded_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """What uvicorn makes of each connection of a server."""
    made = partial(
        BoundedProtocol, bounds=Bounds(connections=settings.max_connections), waiting=Waiting()
    )
    return cast("type[asyncio.Protocol]", made)  # uvicorn only calls it
