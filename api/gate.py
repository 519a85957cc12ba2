"""What happens before any route: the caller's key or name is checked, and the body's size."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ForeignHost, TooLarge, Unauthorised, error_response
from api.routes.page import FILES
from api.settings import Settings, is_loopback
from embedstore.errors import StoreError

OPEN = frozenset({"/health", *FILES})
"""Paths that need no key: none of them tells anything of the store. The page asks for the key."""


class Gate:
    """ASGI middleware around the whole app, so that no route can be left unguarded."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._digests = [_digest(key.encode()) for key in settings.api_keys]
        self._max_bytes = settings.max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check_caller(scope)
            body = await self._read_body(scope, receive)
        except StoreError as error:
            await error_response(error)(scope, receive, send)
            return

        async def replay() -> Message:
            return body.pop(0) if body else await receive()

        await self.app(scope, replay, send)

    def _check_caller(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if not self._digests:
            # a page on the web can make a browser call 127.0.0.1 by a name of its own
            if not is_loopback(_name(headers.get("host", "localhost"))):
                raise ForeignHost(
                    "Without API keys only this machine is served, under its own name.",
                    "Ask http://127.0.0.1, or start the server with EMBEDSTORE_API_KEYS.",
                )
            return
        if scope["path"] in OPEN:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        digest = _digest(token.strip().encode("latin-1"))
        known = [hmac.compare_digest(digest, each) for each in self._digests]  # all, always
        if scheme.lower() != "bearer" or not any(known):
            raise Unauthorised(
                "The request has no valid API key.", "Send it as Authorization: Bearer KEY."
            )

    async def _read_body(self, scope: Scope, receive: Receive) -> list[Message]:
        """The messages of the body, up to the limit."""
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
