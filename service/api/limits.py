"""Rate limits: calls per API key or address and minute, counted by the library ``limits``.

If the broker is Redis, all API processes share the counts in it. Otherwise, and while Redis does
not answer, each process counts for itself.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from anyio import to_thread
from limits import RateLimitItemPerMinute, storage, strategies

from service.errors import TooManyRequests
from service.settings import Settings

log = logging.getLogger(__name__)

Counter = strategies.SlidingWindowCounterRateLimiter
#: Whether a call is allowed; one of the two kinds counts it.
_Ask = Callable[..., bool]
_REDIS = ("redis:", "rediss:")
#: Pause after a failure of Redis: one that does not answer would delay every call.
_PAUSE_SECONDS = 10.0


class Limiter:
    """A limit of calls of one kind per key and minute, by a sliding window; 0: no limit.

    ``whose`` says in the refusal what the calls are counted for.
    """

    def __init__(
        self,
        per_minute: int,
        settings: Settings,
        *,
        what: str = "calls",
        whose: str = "this API key",
    ) -> None:
        self._what, self._whose = what, whose
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
        self._refuse(key, _hit)

    def check(self, key: str) -> None:
        """Raise ``TooManyRequests`` if ``take`` would, without counting a call."""
        self._refuse(key, _test)

    def _refuse(self, key: str, ask: _Ask) -> None:
        if self._limit is None:
            return
        wait = self._wait(self._limit, key, ask)
        if wait is not None:
            raise TooManyRequests(
                f"{self._whose} may make {self._limit.amount} {self._what} per minute; "
                "wait and try again",
                retry_after_seconds=wait,
            )

    def _wait(self, limit: RateLimitItemPerMinute, key: str, ask: _Ask) -> int | None:
        """Return None if the call is allowed, else in how many seconds one will be."""
        if self._shared is not None and time.monotonic() >= self._shared_from:
            try:
                return _seconds(self._shared, limit, ask, self._what, key)
            except Exception as error:  # calls are counted even if Redis fails in any way
                log.warning("counting calls in this process alone: %s", type(error).__name__)
                self._shared_from = time.monotonic() + _PAUSE_SECONDS
        return _seconds(self._own, limit, ask, self._what, key)


def _hit(counter: Counter, limit: RateLimitItemPerMinute, *what: str) -> bool:
    return counter.hit(limit, *what)


def _test(counter: Counter, limit: RateLimitItemPerMinute, *what: str) -> bool:
    return counter.test(limit, *what)


def _seconds(counter: Counter, limit: RateLimitItemPerMinute, ask: _Ask, *what: str) -> int | None:
    if ask(counter, limit, *what):
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
