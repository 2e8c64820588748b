"""Limits of the door: size of a body, calls per key and minute."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from service.errors import TooManyRequests

MAX_TRACKED = 10_000


class Limiter:
    """A token bucket per key in this process: a minute's worth of calls, refilled steadily.

    Several API processes allow each their own; behind a load balancer divide the setting.
    """

    def __init__(
        self,
        per_minute: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        what: str = "calls",
    ) -> None:
        self._per_minute = per_minute
        self._what = what
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> None:
        """Count one call; raises a 429 that says when the next one is allowed."""
        if self._per_minute == 0:
            return
        rate = self._per_minute / 60
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.get(key, (float(self._per_minute), now))
            tokens = min(self._per_minute, tokens + (now - since) * rate)
            if tokens >= 1:
                if len(self._buckets) >= MAX_TRACKED:
                    self._buckets.clear()
                self._buckets[key] = (tokens - 1, now)
                return
        raise TooManyRequests(
            f"this API key may make {self._per_minute} {self._what} per minute; wait and try again",
            retry_after_seconds=max(1, math.ceil((1 - tokens) / rate)),
        )
