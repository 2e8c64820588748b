"""How often an open page looks again: the more it costs to make, the less often.

So a page that is followed costs a bounded share of the processor, on every machine and however
much there is to show.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
import time
from collections.abc import Callable
from typing import Any

#: Of the processor, by the endpoint of a page that is followed for a minute. What comes before and
#: after the endpoint (routing, the session's lookup, sending) takes as much again at most, so a
#: page takes less than .05 (``make bench-pages``).
SECONDS_A_MINUTE = 0.025
#: Seconds between two looks.
LEAST_SECONDS, MOST_SECONDS = 30, 600

#: What a template has for the number of seconds.
MARK = "<div data-live>"

_begun = threading.local()


def timed(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return an endpoint that notes when it begins, by the processor time of its thread."""
    if inspect.iscoroutinefunction(endpoint):
        return endpoint

    @functools.wraps(endpoint)
    def call(*args: Any, **given: Any) -> Any:
        _begun.at = time.thread_time()
        return endpoint(*args, **given)

    return call


def mark(content: str) -> str:
    """Return a page that says after how many seconds to look again, if it is one to follow.

    Called by the endpoint's thread when the page is made.
    """
    if MARK not in content:
        return content
    seconds = between_looks(time.thread_time() - _begun.at)
    return content.replace(MARK, f'<div data-live="{seconds}">', 1)


def between_looks(cost: float) -> int:
    """Return seconds between two looks at a page that takes ``cost`` seconds of the processor."""
    return max(LEAST_SECONDS, min(MOST_SECONDS, math.ceil(cost * 60 / SECONDS_A_MINUTE)))
