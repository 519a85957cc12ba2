"""What happens before any route: the caller's key, name and rate are checked, and the body."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ForeignHost, SlowBody, TooLarge, Unauthorised, error_response
from api.rate import RateLimit
from api.routes.page import FILES
from api.settings import Settings, is_loopback
from embedstore.errors import StoreError

OPEN = frozenset({"/health", "/ready", *FILES})
"""Paths that need no key, and use up no rate: none of them tells anything of the store. What
starts and watches the server asks for them, and the page, which asks for the key."""

_BODY = (b"content-length", b"transfer-encoding")
"""Headers without which a request has no body."""


class Gate:
    """ASGI middleware around the whole app, so that no route can be left unguarded."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._digests = [_digest(key.encode()) for key in settings.api_keys]
        self._max_bytes, self._seconds = settings.max_request_bytes, settings.request_seconds
        # a page on the web can make a browser call 127.0.0.1 by a name of its own
        self._own_names_only = not settings.api_keys and is_loopback(settings.host)
        self._rate = RateLimit(settings.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = scope["headers"]
            self._check_caller(scope, dict(headers))
            if not any(name in _BODY for name, _ in headers):
                await self.app(scope, receive, send)
                return
            body = await self._read_body(scope, receive)
        except StoreError as error:
            await error_response(error)(scope, receive, send)
            return

        async def replay() -> Message:
            return body.pop(0) if body else await receive()

        await self.app(scope, replay, send)

    def _check_caller(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self._own_names_only:
            name = _name(headers.get(b"host", b"localhost").decode("latin-1"))
            if not is_loopback(name):
                raise ForeignHost(
                    "Without API keys only this machine is served, under its own name.",
                    "Ask http://127.0.0.1, or start the server with EMBEDSTORE_API_KEYS.",
                )
        if scope["path"] in OPEN:
            return
        digest = b""
        if self._digests:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            digest = _digest(token.strip())
            known = [hmac.compare_digest(digest, each) for each in self._digests]  # all, always
            if scheme.lower() != b"bearer" or not any(known):
                raise Unauthorised(
                    "The request has no valid API key.", "Send it as Authorization: Bearer KEY."
                )
        self._rate.take(digest)

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


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _name(host: str) -> str:
    """Host without its port: `[::1]:8000` to `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
