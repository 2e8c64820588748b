"""Wait until something has ended, by looking at it again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from .calls import Call
from .errors import EndedOtherwise, StillOpen
from .flows import Flow, Pause, call
from .retries import Retries

T = TypeVar("T")

#: Pauses between two looks: the first, and the longest to which they grow.
FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0
_GROWTH = 1.5


@dataclass(frozen=True)
class Wait(Generic[T]):
    """What is looked at, in which states it has ended, and how its state is told."""

    call: Call[T]
    well: Set[str]
    badly: Set[str]
    #: Names it and its state in an error, without anything that may name a person.
    says: Callable[[T], str]
    #: When to give up if the caller gives no time; None: never.
    due: Callable[[T], datetime | None] = lambda _seen: None


def until_ended(
    wait: Wait[T],
    retries: Retries,
    *,
    timeout_seconds: float | None,
    watch: Callable[[T], None] | None = None,
) -> Flow[T]:
    """Look until it has ended well, and return its last state.

    Raise ``EndedOtherwise``, or ``StillOpen`` after ``timeout_seconds``; without these, when it is
    due.
    """
    began, pause = time.monotonic(), FIRST_SECONDS
    while True:
        seen: Any = yield from call(wait.call, retries)
        if watch is not None:
            watch(seen)
        if seen.status in wait.well:
            return seen  # type: ignore[no-any-return]
        if seen.status in wait.badly:
            raise EndedOtherwise(f"{wait.says(seen)}; it will not go on by itself", seen)
        left = _left(wait, seen, began, timeout_seconds)
        if left <= 0:
            raise StillOpen(f"{wait.says(seen)}, and the time to wait is over; look again", seen)
        yield Pause(min(pause, left))
        pause = min(pause * _GROWTH, LONGEST_SECONDS)


def _left(wait: Wait[Any], seen: Any, began: float, timeout_seconds: float | None) -> float:
    if timeout_seconds is not None:
        return began + timeout_seconds - time.monotonic()
    due = wait.due(seen)
    return float("inf") if due is None else (due - datetime.now(UTC)).total_seconds()
