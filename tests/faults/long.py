"""The long form: many runs one after the other, each from nothing, until enough was broken.

A run forgets a good part of a small data set; only a fresh one can go on. Every fourth run is in
the embedded form.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults import catalogue, harness, servers

#: Of one run. With the requests that breakages add they name about two thirds of the digits' rows.
FAULTS_AT_ONCE = 40
REQUESTS_AT_ONCE = 600
EMBEDDED_EVERY = 4
#: Guess before the first fault has been timed, starts and ends of runs included.
SECONDS_PER_FAULT = 10.0


@dataclass
class Aim:
    """How much is to be asked and broken in all, and what of it is done."""

    requests: int
    faults: int
    asked: int = 0
    broke: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def reached(self) -> bool:
        return self.asked >= self.requests and self.broke >= self.faults

    def minutes_left(self, *, asked: int = 0, broke: int = 0) -> float:
        """Estimate, from what has been done so far and in the run that goes on."""
        asked, broke = self.asked + asked, self.broke + broke
        if not broke:
            return self.faults * SECONDS_PER_FAULT / 60
        share = min(asked / self.requests, broke / self.faults, 1.0)
        spent = (time.monotonic() - self.began) / 60
        return spent * (1 - share) / share if share else spent * self.faults / broke

    def progress(self, *, asked: int = 0, broke: int = 0) -> str:
        """Return how far it is, in words."""
        left = self.minutes_left(asked=asked, broke=broke)
        return (
            f"{self.broke + broke} of {self.faults} faults, {self.asked + asked} of "
            f"{self.requests} requests, about {left:.0f} minutes left"
        )


def run(
    aim: Aim, *, seed: int, embedded: bool, keep: bool, say: Callable[[str], None]
) -> harness.Outcome:
    """Run until the aim is reached; everything that was counted, together."""
    total = harness.Outcome(seed)
    number = 0
    say(aim.progress())
    while not aim.reached:
        own = embedded or number % EMBEDDED_EVERY == EMBEDDED_EVERY - 1
        names, permits = _next(aim, random.Random(f"{seed}/{number}"), embedded=own)
        form = "the embedded form" if own else "PostgreSQL and Redis"
        say(f"run {number + 1}, {form}, seed {seed + number}: {len(names)} faults")
        with servers.home(keep=keep) as home:
            outcome = harness.run(
                home,
                names,
                seed=seed + number,
                embedded=own,
                permits=permits,
                say=say,
                note=lambda broke, asked: say(aim.progress(asked=asked, broke=broke)),
            )
        aim.asked += outcome.clients["accepted"]
        aim.broke += outcome.broke.total()
        total.add(outcome)
        number += 1
        say(f"{aim.progress()}; {len(total.broken)} promises broken so far")
    return total


def _next(aim: Aim, chance: random.Random, *, embedded: bool) -> tuple[list[str], int]:
    """What the next run breaks, and how many requests it sends before each."""
    requests, faults = max(0, aim.requests - aim.asked), max(0, aim.faults - aim.broke)
    runs = max(math.ceil(requests / REQUESTS_AT_ONCE), math.ceil(faults / FAULTS_AT_ONCE))
    many = max(1, math.ceil(faults / runs))
    names: list[str] = []
    while len(names) < many:
        everything = catalogue.names(embedded=embedded)
        chance.shuffle(everything)
        names += everything
    return names[:many], max(1, math.ceil(requests / runs / many))
