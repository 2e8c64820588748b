"""What workers count: kept in memory, written with each heartbeat, summed for ``/metrics``.

A count is a number under a name such as ``compute_calls;unlearn;answered``: the family, and a value
for each of its labels. Counts of several workers are added name by name, so that neither this
process nor a table has to know which workers there are.

Seconds of a batch's phases are also stored with each version. Reading them there would take every
version that there ever was at each look, and new ones cannot be told by their ids, which
transactions commit in another order than they take them.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Most names that a worker counts under: its row stays small, whatever methods and operations do.
MAX_NAMES = 400

#: Upper bounds of a histogram's buckets, seconds; the last one has none.
BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10_000.0)

#: Digits after the point of a count.
DIGITS = 6

Counts = Mapping[str, float]


@dataclass(frozen=True)
class Family:
    """Numbers of one kind, with the labels that tell them apart."""

    name: str
    words: str
    labels: tuple[str, ...]


BATCHES = Family("batch_runs", "runs of a batch by a worker, by their outcome", ("outcome",))
CALLS = Family(
    "compute_calls", "calls of compute processes, by their outcome", ("operation", "outcome")
)
BUSY = Family("lane_busy_seconds", "seconds in which a lane of a worker did a job", ("lane",))
JOB_FAILURES = Family("job_failures", "jobs of a lane that ended with an error", ("lane",))
COUNTERS = (BATCHES, CALLS, BUSY, JOB_FAILURES)

PHASES = Family("batch_phase_seconds", "seconds of each phase of a batch", ("phase",))
HISTOGRAMS = (PHASES,)


class Counter:
    """The counts of one worker process since it began; its threads share it."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}
        self._turn = threading.Lock()

    def add(self, family: Family, *labels: str, by: float = 1.0) -> None:
        """Count ``by`` more."""
        with self._turn:
            self._add(_name(family, *labels), by)

    def observe(self, family: Family, *labels: str, seconds: float) -> None:
        """Add a duration to a histogram."""
        with self._turn:
            self._add(_name(family, *labels, str(bisect_left(BOUNDS, seconds))), 1.0)
            self._add(_name(family, *labels, "sum"), seconds)

    def now(self) -> dict[str, float]:
        """Return a copy of what was counted so far."""
        with self._turn:
            return {name: round(count, DIGITS) for name, count in self._counts.items()}

    def _add(self, name: str, by: float) -> None:
        if name in self._counts or len(self._counts) < MAX_NAMES:
            self._counts[name] = self._counts.get(name, 0.0) + by


def total(counted: Iterable[Counts | None]) -> dict[str, float]:
    """Return the sums, name by name."""
    found: dict[str, float] = {}
    for counts in counted:
        for name, count in (counts or {}).items():
            found[name] = found.get(name, 0.0) + count
    # Sums of floats depend on the order of the rows, and a counter that falls by the last bit was
    # reset, for Prometheus.
    return {name: round(count, DIGITS) for name, count in found.items()}


def since(counts: Counts, base: Counts) -> dict[str, float]:
    """Return what was counted after ``base``, an earlier state of the same counter."""
    return {name: round(count - base.get(name, 0.0), DIGITS) for name, count in counts.items()}


def of(family: Family, counts: Counts) -> dict[tuple[str, ...], float]:
    """Return a family's counts by the values of its labels (of a histogram: and by its part)."""
    split = (name.split(";") for name in counts)
    return {
        tuple(labels): counts[";".join([name, *labels])]
        for name, *labels in split
        if name == family.name
    }


def _name(family: Family, *labels: str) -> str:
    return ";".join([family.name, *(label.replace(";", ",") for label in labels)])
