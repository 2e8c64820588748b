"""Rate limits: calls per API key and minute, counted by the library ``limits``.

If the broker is Redis, all API processes share the counts in it. Otherwise, and while Redis does
not answer, each process counts for itself.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from anyio import to_thread
from limits import RateLimitItemPerMinute, storage, strategies

from service.errors import TooManyRequests
from service.settings import Settings

log = logging.getLogger(__name__)

Counter = strategies.SlidingWindowCounterRateLimiter
_REDIS = ("redis:", "rediss:")
#: Pause after a failure of Redis: one that does not answer would delay every call.
_PAUSE_SECONDS = 10.0


class Limiter:
    """A limit of calls of one kind per key and minute, by a sliding window; 0: no limit."""

    def __init__(self, per_minute: int, settings: Settings, *, what: str = "calls") -> None:
        self._what = what
        self._limit = RateLimitItemPerMinute(per_minute) if per_minute else None
        self._own = Counter(storage.MemoryStorage())
        self._shared = _shared(settings) if per_minute else None
        self._shared_from = -math.inf

    async def admit(self, key: str) -> None:
        """Count one call as ``take`` does, without blocking the event loop."""
        if self._shared is None:
            self.take(key)
        else:
            await to_thread.run_sync(self.take, key)

    def take(self, key: str) -> None:
        """Count one call; raise ``TooManyRequests``, which says when to try again."""
        if self._limit is None:
            return
        wait = self._wait(self._limit, key)
        if wait is not None:
            raise TooManyRequests(
                f"this API key may make {self._limit.amount} {self._what} per minute; "
                "wait and try again",
                retry_after_seconds=wait,
            )

    def _wait(self, limit: RateLimitItemPerMinute, key: str) -> int | None:
        """Return None if the call is allowed, else in how many seconds one will be."""
        if self._shared is not None and time.monotonic() >= self._shared_from:
            try:
                return _hit(self._shared, limit, self._what, key)
            except Exception as error:  # calls are counted even if Redis fails in any way
                log.warning("counting calls in this process alone: %s", type(error).__name__)
                self._shared_from = time.monotonic() + _PAUSE_SECONDS
        return _hit(self._own, limit, self._what, key)


def _hit(counter: Counter, limit: RateLimitItemPerMinute, *what: str) -> int | None:
    if counter.hit(limit, *what):
        return None
    return max(1, math.ceil(counter.get_window_stats(limit, *what).reset_time - time.time()))


def _shared(settings: Settings) -> Counter | None:
    if not settings.broker_url.startswith(_REDIS):
        return None
    options: dict[str, Any] = {
        "socket_timeout": settings.broker_timeout_seconds,
        "socket_connect_timeout": settings.broker_timeout_seconds,
        "key_prefix": "unlearn-limits",
    }
    return Counter(storage.RedisStorage(settings.broker_url, **options))
