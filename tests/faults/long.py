"""The long form: many runs, several at the same time, until enough was asked and broken.

A run forgets a good part of a small data set; only a fresh one can go on. Every fourth run is in
the embedded form. What each breaks is decided beforehand, so that it can be gone on with.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from json import loads
from pathlib import Path
from typing import Any

from tests.faults import catalogue
from tests.faults.kinds import Broken, Kind
from tests.faults.outcome import Outcome
from tests.faults.part import Part
from tests.faults.progress import Progress

#: Of one run. So many requests name about half of the digits' rows.
FAULTS_AT_ONCE = 40
REQUESTS_AT_ONCE = 800
#: Of what is to be asked, what clients send before each breakage; the rest comes while it waits.
ASKED_BEFORE = 0.8
EMBEDDED_EVERY = 4
#: Much of a run is waiting (for leases, time limits, pauses), so one more than there are cores.
PARTS_AT_ONCE = 1 + (os.cpu_count() or 1)
#: Guess before the first fault has been timed, starts and ends of runs included.
SECONDS_PER_FAULT = 4.5
#: So many runs may end without a result before no other is begun.
MOST_LOST = 3


class PartEnded(Exception):
    """A run's process has ended without saying what it has met."""


@dataclass
class Aim:
    """How much is to be asked and broken in all."""

    requests: int
    faults: int
    seed: int = 1
    #: Only the embedded form.
    embedded: bool = False
    #: Only breakages with one of these in their name; none: all.
    only: tuple[str, ...] = ()
    began: float = field(default_factory=time.monotonic)

    def as_json(self) -> dict[str, Any]:
        """Return what tells it from other aims."""
        return {
            "requests": self.requests,
            "faults": self.faults,
            "seed": self.seed,
            "embedded": self.embedded,
            "only": list(self.only),
        }

    def parts(self, *, keep: bool) -> Iterator[Part]:
        """Yield runs without end: as many as are needed are made."""
        runs = max(
            1,
            math.ceil(self.requests / REQUESTS_AT_ONCE),
            math.ceil(self.faults / FAULTS_AT_ONCE),
        )
        many = max(1, math.ceil(self.faults / runs))
        permits = max(1, math.ceil(ASKED_BEFORE * self.requests / runs / many))
        number = 0
        while True:
            own = self.embedded or number % EMBEDDED_EVERY == EMBEDDED_EVERY - 1
            everything = catalogue.named(self.only, embedded=own)
            if not everything:  # those asked for exist in the other form only
                own = not own
                everything = catalogue.named(self.only, embedded=own)
            chance = random.Random(f"{self.seed}/{number}")
            names: list[str] = []
            while len(names) < many:
                names += chance.sample(everything, len(everything))
            yield Part(number, self.seed + number, own, tuple(names[:many]), permits, keep)
            number += 1


@dataclass
class Count:
    """What is done of an aim, in runs that are over and in those that go on."""

    aim: Aim
    asked: int = 0
    broke: int = 0
    #: Done before this process: its time is not known.
    asked_before: int = 0
    broke_before: int = 0
    #: (requests, faults) so far of each run that goes on, by its number.
    under_way: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return self.asked >= self.aim.requests and self.broke >= self.aim.faults

    def end(self, number: int, outcome: Outcome) -> None:
        """Count a run that is over."""
        self.under_way.pop(number, None)
        self.asked += outcome.clients["accepted"]
        self.broke += outcome.broke.total()

    def now(self) -> tuple[int, int]:
        """Return requests and faults, of runs that go on as well."""
        asked = self.asked + sum(asked for asked, _ in list(self.under_way.values()))
        return asked, self.broke + sum(broke for _, broke in list(self.under_way.values()))

    def minutes_left(self) -> float:
        """Estimate, from what this process has done so far."""
        asked, broke = self.now()
        to_ask = max(0, self.aim.requests - asked)
        to_break = max(0, self.aim.faults - broke)
        if broke == self.broke_before:
            return to_break * SECONDS_PER_FAULT / 60
        minutes = (time.monotonic() - self.aim.began) / 60
        asking = minutes * to_ask / max(1, asked - self.asked_before)
        breaking = minutes * to_break / (broke - self.broke_before)
        return max(asking, breaking)

    def words(self) -> str:
        """Return how far it is, in words."""
        asked, broke = self.now()
        return (
            f"{broke} of {self.aim.faults} faults, {asked} of {self.aim.requests} requests, "
            f"about {self.minutes_left():.0f} minutes left"
        )


def run(
    aim: Aim,
    progress: Progress,
    *,
    at_once: int,
    keep: bool,
    say: Callable[[str], None],
) -> Outcome:
    """Run until the aim is reached; everything that was counted, together."""
    count = Count(aim)
    for number, outcome in progress.done.items():
        count.end(number, outcome)
    count.asked_before, count.broke_before = count.asked, count.broke
    say(f"{count.words()}; kept in {progress.path}")
    parts = (one for one in aim.parts(keep=keep) if one.number not in progress.done)
    running: dict[Future[Outcome], Part] = {}
    lost: list[Broken] = []
    with ThreadPoolExecutor(at_once) as pool:
        while running or not (count.reached or len(lost) == MOST_LOST):
            while (
                len(running) < at_once
                and len(lost) < MOST_LOST
                and _more_needed(count, running.values())
            ):
                part = next(parts)
                running[pool.submit(_run_part, part, count, say)] = part
            for over in wait(running, return_when=FIRST_COMPLETED).done:
                part = running.pop(over)
                try:
                    outcome = over.result()
                except PartEnded as ended:
                    count.under_way.pop(part.number, None)
                    lost.append(Broken(Kind.OTHER, str(ended)))
                    say(str(ended))
                    continue
                progress.add(part.number, outcome)
                count.end(part.number, outcome)
                say(f"run {part.number + 1} is over, {len(outcome.broken)} promises broken in it")
    total = Outcome(aim.seed)
    for _, outcome in sorted(progress.done.items()):
        total.add(outcome)
    total.broken += lost
    return total


def _more_needed(count: Count, running: Any) -> bool:
    """Whether the aim would be missed with the runs that are over and those that go on."""
    asked = count.asked + sum(len(one.names) * one.permits for one in running)
    broke = count.broke + sum(len(one.names) for one in running)
    return asked < count.aim.requests or broke < count.aim.faults


def _run_part(part: Part, count: Count, say: Callable[[str], None]) -> Outcome:
    """Have one run made by a process of its own; ``PartEnded`` if it says nothing in the end."""
    name = f"run {part.number + 1}"
    form = "the embedded form" if part.embedded else "PostgreSQL and Redis"
    say(f"{name}, {form}, seed {part.seed}: {len(part.names)} faults")
    found = None
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.part"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(part.as_line())
        process.stdin.flush()
        for line in process.stdout:
            told = loads(line)
            if "say" in told:
                say(f"{name}: {told['say']}")
            elif "outcome" in told:
                found = Outcome.from_json(told["outcome"])
            else:
                count.under_way[part.number] = (told["asked"], told["broke"])
                say(count.words())
    if found is None:
        raise PartEnded(f"{name} ended with {process.returncode} and said nothing")
    return found
