"""How far a long benchmark is: a bar on a terminal, elsewhere lines, and about how long is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from benchmarks import results

#: Without a terminal a step that goes on is told at most so often, in seconds.
EVERY = 30.0
#: A shorter step was found finished on the disk: it does not say how long the others take.
FOUND = 1.0


class Tell(Protocol):
    """Takes the share of a step that is done, and in words what is done now."""

    def __call__(self, fraction: float, doing: str = "") -> None:
        """Show it."""


class Steps:
    """Steps of which about is known how they compare: ``weights`` in any unit.

    If they are seconds of an earlier run (``seconds``), the first estimate is ready at once.
    """

    def __init__(
        self,
        weights: Sequence[float],
        *,
        seconds: bool = False,
        console: Console = results.console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._weights, self._console, self._clock = list(weights), console, clock
        self._rate = 1.0 if seconds else None
        self._began = self._step_began = clock()
        self._told = float("-inf")
        self._step, self._title, self._fraction = -1, "", 0.0
        #: Weight and seconds of the steps that were really done.
        self._done, self._spent = 0.0, 0.0
        self._bar = _bar(console) if console.is_terminal else None
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("", total=sum(self._weights))

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, title: str) -> Tell:
        """End the step before, if any, and begin the next; return what its progress is told to."""
        self._close()
        self._step += 1
        self._title, self._fraction, self._step_began = title, 0.0, self._clock()
        self._show(title)
        return self._tell

    def end(self) -> None:
        """End the last step."""
        self._close()
        self._step = len(self._weights)
        self._fraction = 0.0
        self._show("done")

    def left(self) -> float | None:
        """Return about how many seconds are left; None as long as nothing is known."""
        # Lone steps may be worth nothing; they are done when the next one begins.
        weight = self._weight() * self._fraction
        here = self._clock() - self._step_began
        done, spent = self._done, self._spent
        if weight and here >= FOUND:
            done, spent = done + weight, spent + here
        rate = spent / done if done else self._rate
        if rate is None:
            return None
        rest = sum(self._weights[max(self._step, 0) :]) - weight
        return rest * rate

    def _tell(self, fraction: float, doing: str = "") -> None:
        self._fraction = min(max(fraction, 0.0), 1.0)
        if doing or self._bar or self._clock() - self._told >= EVERY:
            self._show(f"{self._title}: {doing}" if doing else self._title)

    def _close(self) -> None:
        took = self._clock() - self._step_began
        if self._step >= 0 and took >= FOUND:
            self._done += self._weight()
            self._spent += took

    def _weight(self) -> float:
        return self._weights[self._step] if 0 <= self._step < len(self._weights) else 0.0

    def _show(self, doing: str) -> None:
        self._told = self._clock()
        done = sum(self._weights[: max(self._step, 0)]) + self._weight() * self._fraction
        left = self.left()
        ahead = "" if left is None or doing == "done" else f", about {_spoken(left)} left"
        if self._bar:
            self._bar.update(self._task, completed=done, description=f"{doing}{ahead}")
            return
        total = sum(self._weights)
        share = done / total if total else 1.0
        passed = _spoken(self._clock() - self._began)
        self._console.print(f"{share:4.0%} after {passed}{ahead}: {doing}", markup=False)


def _bar(console: Console) -> Bar:
    columns = (TextColumn("{task.description:60}"), BarColumn(), TimeElapsedColumn())
    return Bar(*columns, console=console)


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
