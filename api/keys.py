"""Whose key a request carries; who sends wrong ones is made to wait."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from time import monotonic
from typing import TypeVar

from api.errors import RateLimited, Unauthorised

FREE_MISTAKES = 10
"""Wrong keys that an address may send before it is slowed."""
SECONDS_A_MISTAKE = 1.0
"""A slowed address may send one key in this time; a mistake is forgotten after it."""
MOST_WAITING = 64
"""Requests that wait for their turn at once; one more is told to come later."""
ADDRESSES = 4096
"""Addresses that are remembered; the one seen longest ago is forgotten first."""


K = TypeVar("K")
V = TypeVar("V")


class Keys:
    """The API keys of a server. Used on the event loop alone; each worker process has its own.

    A slowed address waits before its key is looked at: were right keys answered at once, nobody
    would wait for the others. A key that was right from that address before is never slowed.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._forgotten: OrderedDict[str, float] = OrderedDict()
        """When the mistakes of an address will all be forgotten, by the monotonic clock."""
        self._waiting = 0

    async def check(self, client: str, authorization: bytes) -> bytes:
        """The digest of the key of a request.

        Parameters
        ----------
        client : address that the request came from
        authorization : the header, empty where there is none

        Raises
        ------
        Unauthorised
            There is no key, or a wrong one.
        RateLimited
            Too many requests of addresses that sent wrong keys wait already.
        """
        if not self._digests:
            return b""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():  # no guess of a key: costs nothing
            raise _unauthorised()
        address, digest = _network(client), _digest(token.strip())
        if (address, digest) in self._known:
            self._known.move_to_end((address, digest))
            return digest
        slowed = await self._wait_for_turn(address)
        right = [hmac.compare_digest(digest, each) for each in self._digests]  # all, always
        if any(right):
            _remember(self._known, (address, digest), None)
            return digest
        if not slowed:
            self._charge(address)
        raise _unauthorised()

    async def _wait_for_turn(self, address: str) -> bool:
        """Wait if the address has to; says whether it had. A turn is used up whatever comes."""
        mistakes = FREE_MISTAKES * SECONDS_A_MISTAKE
        now = monotonic()
        if self._forgotten.get(address, now) + SECONDS_A_MISTAKE - now <= mistakes:
            return False
        if self._waiting >= MOST_WAITING:
            raise RateLimited(
                "Too many wrong API keys came from this address.",
                "Wait as long as Retry-After says, and check the key.",
                MOST_WAITING,
            )
        turn = self._charge(address) - mistakes
        self._waiting += 1
        try:
            await asyncio.sleep(turn - now)
        finally:
            self._waiting -= 1
        return True

    def _charge(self, address: str) -> float:
        """Count a mistake; gives when all of the address will be forgotten."""
        now = monotonic()
        after = max(now, self._forgotten.get(address, now)) + SECONDS_A_MISTAKE
        _remember(self._forgotten, address, after)
        return after


def _unauthorised() -> Unauthorised:
    return Unauthorised(
        "The request has no valid API key.", "Send it as Authorization: Bearer KEY."
    )


def _remember(table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > ADDRESSES:
        table.popitem(last=False)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _network(client: str) -> str:
    """An address; of IPv6 the /64 that one machine has whole."""
    try:
        parsed = ip_address(client)
    except ValueError:
        return client
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or int(parsed) >> 64)
    return str(parsed)
