"""What a call does step by step, without doing it: the clients, sync and async, take the steps.

A flow is a generator. It yields what is to be done next (send, pause, work on a file) and gets the
result, or the ``httpx.TransportError`` that came instead of one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import httpx

from . import answers, errors
from .calls import Call
from .retries import Retries

T = TypeVar("T")

#: Statuses of answers whose body goes to the sink, if there is one.
FILE = (200, 206)


class Sink(Protocol):
    """Takes the bytes of an answer as they come."""

    @property
    def received(self) -> int:
        """Return how many bytes of the file are there."""

    def begin(self, response: httpx.Response) -> None:
        """Take note of the answer's status and headers."""

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""


@dataclass(frozen=True)
class Send:
    """Send the call; the result is the response, whose body was read or went to the sink."""

    call: Call[Any]
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    sink: Sink | None = None


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Do something that takes a disk's time; the result is what it returns."""

    function: Callable[[], Any]


Flow = Generator[Send | Pause | Work, Any, T]


def call(what: Call[T], retries: Retries) -> Flow[T]:
    """Make a call, again where that is right, and return its validated answer."""
    response = yield from attempts(what, retries)
    return answers.read(what, response)


def attempts(
    what: Call[Any],
    retries: Retries,
    *,
    headers: Callable[[], dict[str, str]] = dict,
    sink: Sink | None = None,
) -> Flow[httpx.Response]:
    """Send a call until it is answered; raise ``ApiError`` or ``Unreachable``.

    ``headers`` is asked before each attempt. An attempt after which more of a file is there than
    before does not count: a long download over a bad line ends as long as it gets on.
    """
    tried = 0
    while True:
        tried += 1
        before = 0 if sink is None else sink.received
        try:
            response = yield Send(what, headers(), sink)
        except httpx.TransportError as error:
            if sink is not None and sink.received > before:
                tried = min(tried, 1)
            pause = retries.after_loss(what, error, tried)
            if pause is None:
                raise _unreachable(what, error, tried) from error
        else:
            if response.status_code < 400:
                return answers.expected(response)
            problem = errors.of(response)
            pause = retries.after_answer(what, problem, tried)
            if pause is None:
                raise problem
        yield Pause(pause)


def _unreachable(what: Call[Any], error: httpx.TransportError, tried: int) -> errors.Unreachable:
    done = (
        "repeat the call"
        if what.is_repeatable
        else "whether it was carried out is not known: look before you repeat it"
    )
    times = "once" if tried == 1 else f"{tried} times"
    return errors.Unreachable(
        f"{what.method} {what.path} was sent {times} and not answered "
        f"({type(error).__name__}); {done}"
    )
