"""When a call is sent again, and after how long.

A call that may be repeated (GET, PUT, PATCH, DELETE, and a POST with an idempotency key) is sent
again after a lost connection and after 429 and 5xx. Another POST is sent again only where it is
certain that the service did nothing: there was no connection, or the answer says so.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import httpx

from .calls import Call
from .errors import ApiError

#: Errors before anything was sent.
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
#: Codes of problems that say that nothing was recorded.
_NOTHING_DONE = frozenset({"busy"})


@dataclass(frozen=True)
class Retries:
    """How often a call is tried, and how long the pauses between are, in seconds."""

    attempts: int = 5
    first_seconds: float = 0.2
    #: The longest pause, also of those that the service asks for: beyond it the error is raised.
    longest_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("a call is tried at least once")

    def after_loss(self, call: Call[Any], error: httpx.TransportError, tried: int) -> float | None:
        """Return the pause after a lost connection or answer; None: do not try again."""
        if tried >= self.attempts:
            return None
        if not (call.is_repeatable or isinstance(error, _NOTHING_SENT)):
            return None
        return self._pause(tried)

    def after_answer(self, call: Call[Any], error: ApiError, tried: int) -> float | None:
        """Return the pause after an error of the service; None: do not try again."""
        if tried >= self.attempts or not _passes(call, error):
            return None
        asked = error.retry_after_seconds
        if asked is None:
            return self._pause(tried)
        return None if asked > self.longest_seconds else max(asked, self._pause(tried))

    def _pause(self, tried: int) -> float:
        """Return a pause that doubles, less up to a half so that callers do not come together."""
        pause: float = min(self.longest_seconds, self.first_seconds * 2 ** (tried - 1))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  # not a secret


def _passes(call: Call[Any], error: ApiError) -> bool:
    """Return whether the error may pass by itself, and the call may be sent again."""
    if error.status == 429 or error.code in _NOTHING_DONE:
        return True
    return call.is_repeatable and error.status >= 500 and error.status != 501
