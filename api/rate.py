"""How many requests each key may send: a token bucket a key."""

from __future__ import annotations

import math
import time

from api.errors import RateLimited


class RateLimit:
    """Buckets that fill steadily; one holds a minute's requests. Called on the event loop alone.

    Each worker process counts for itself.
    """

    def __init__(self, requests_per_minute: int) -> None:
        """Fill every bucket.

        Parameters
        ----------
        requests_per_minute : 0: no limit
        """
        self._most = float(requests_per_minute)
        self._buckets: dict[bytes, tuple[float, float]] = {}

    def take(self, key: bytes) -> None:
        """Count one request of a key.

        Raises
        ------
        RateLimited
            Says when the next one is welcome.
        """
        if not self._most:
            return
        now = time.monotonic()
        left, since = self._buckets.get(key, (self._most, now))
        left = min(self._most, left + (now - since) * self._most / 60)
        if left < 1:
            self._buckets[key] = (left, now)
            raise RateLimited(
                f"This key has sent more than {self._most:.0f} requests in a minute.",
                "Wait as long as Retry-After says.",
                max(1, math.ceil((1 - left) * 60 / self._most)),
            )
        self._buckets[key] = (left - 1, now)
