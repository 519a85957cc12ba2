"""What happens before any route: the caller's key, name and rate are checked, and the body."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ForeignHost, SlowBody, TooLarge, error_response
from api.keys import Keys
from api.rate import RateLimit
from api.routes.page import FILES
from api.settings import Settings, is_loopback
from embedstore.errors import StoreError

OPEN = frozenset({"/health", "/ready", *FILES})
"""Paths that need no key, and use up no rate: none of them tells anything of the store. What
starts and watches the server asks for them, and the page, which asks for the key."""

_BODY = (b"content-length", b"transfer-encoding")
"""Headers without which a request has no body."""

LINGER_BYTES = 4 << 20
LINGER_SECONDS = 2.0
"""How much of a refused body is still read, and for how long."""


class Gate:
    """ASGI middleware around the whole app, so that no route can be left unguarded."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._keys = Keys(settings.api_keys)
        self._max_bytes, self._seconds = settings.max_request_bytes, settings.request_seconds
        # a page on the web can make a browser call 127.0.0.1 by a name of its own
        self._own_names_only = not settings.api_keys and is_loopback(settings.host)
        self._rate = RateLimit(settings.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        has_body = any(name in _BODY and value != b"0" for name, value in headers)
        try:
            await self._check_caller(scope, dict(headers))
            if not has_body:
                await self.app(scope, receive, send)
                return
            body = await self._read_body(scope, receive)
        except StoreError as error:
            response = error_response(error)
            if has_body:
                await _refuse_body(response, scope, receive, send)
            else:
                await response(scope, receive, send)
            return

        async def replay() -> Message:
            return body.pop(0) if body else await receive()

        await self.app(scope, replay, send)

    async def _check_caller(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self._own_names_only:
            name = _name(headers.get(b"host", b"localhost").decode("latin-1"))
            if not is_loopback(name):
                raise ForeignHost(
                    "Without API keys only this machine is served, under its own name.",
                    "Ask http://127.0.0.1, or start the server with EMBEDSTORE_API_KEYS.",
                )
        if scope["path"] in OPEN:
            return
        client = scope.get("client") or ("", 0)
        self._rate.take(await self._keys.check(client[0], headers.get(b"authorization", b"")))

    async def _read_body(self, scope: Scope, receive: Receive) -> list[Message]:
        """The messages of the body, up to the limits of size and time."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._collect(scope, receive)
        except TimeoutError:
            raise SlowBody(
                f"The body did not arrive within {self._seconds} s.", "Send it faster, or less."
            ) from None

    async def _collect(self, scope: Scope, receive: Receive) -> list[Message]:
        declared = Headers(scope=scope).get("content-length", "0")
        declares_more = declared.isdecimal() and int(declared) > self._max_bytes
        messages: list[Message] = []
        size = 0
        while not declares_more and size <= self._max_bytes:
            if messages and not messages[-1].get("more_body", False):
                return messages
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
        raise TooLarge(
            f"The body has more than {self._max_bytes} bytes.", "Send fewer sequences at a time."
        )


async def _refuse_body(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request whose body was not read whole, and close its connection.

    A little more is read and thrown away before that: a connection that is closed on a client that
    sends is reset, and the client may never see why.
    """
    response.headers["connection"] = "close"

    async def hold_back_the_end(message: Message) -> None:
        await send({**message, "more_body": True} if "body" in message else message)

    await response(scope, receive, hold_back_the_end)
    left = LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _name(host: str) -> str:
    """Host without its port: `[::1]:8000` to `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
