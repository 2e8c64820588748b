"""What a long benchmark says while it runs, without a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks import progress
from benchmarks.progress import Steps


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _steps(clock: Clock, weights: list[float], *, seconds: bool = False) -> Steps:
    console = Console(file=io.StringIO(), width=200)
    return Steps(weights, seconds=seconds, console=console, clock=clock)


def _lines(steps: Steps) -> list[str]:
    file = steps._console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def test_each_step_is_told_with_what_is_left_by_the_rate_so_far(clock: Clock) -> None:
    steps = _steps(clock, [1.0, 3.0])
    steps.begin("first")
    assert steps.left() is None
    clock.now = 100
    tell = steps.begin("second")
    assert steps.left() == 300
    clock.now = 300
    tell(0.5, "half of it")
    assert steps.left() == 1.5 * 300 / 2.5
    steps.end()
    assert _lines(steps) == [
        "  0% after 0 s: first",
        " 25% after 2 min, about 5 min left: second",
        " 62% after 5 min, about 3 min left: second: half of it",
        "100% after 5 min: done",
    ]


def test_seconds_of_an_earlier_run_are_an_estimate_at_once(clock: Clock) -> None:
    steps = _steps(clock, [600.0, 600.0], seconds=True)
    steps.begin("first")
    assert steps.left() == 1200


def test_steps_that_were_found_finished_say_nothing_about_the_others(clock: Clock) -> None:
    steps = _steps(clock, [1.0, 1.0, 1.0])
    steps.begin("found")
    clock.now = progress.FOUND / 2
    steps.begin("measured")
    assert steps.left() is None
    clock.now += 10
    steps.begin("last")
    assert steps.left() == 10


def test_a_step_that_goes_on_is_told_now_and_then(clock: Clock) -> None:
    steps = _steps(clock, [1.0])
    tell = steps.begin("long")
    for second in range(1, 100):
        clock.now = second
        tell(second / 100)
    assert len(_lines(steps)) == 1 + int(99 // progress.EVERY)
