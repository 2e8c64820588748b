"""What gradient restriction adds to the cost of an epoch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.methods import files
from benchmarks.methods.bank import Progress
from benchmarks.methods.problem import Problem
from benchmarks.methods.settings import Settings
from unlearning.core import training
from unlearning.core.examples import Examples

ALPHA = 0.005
#: Training rows of the timed epochs, and how often each is timed.
_ROWS = 8_000
_REPEATS = 5


@dataclass(frozen=True)
class Cost:
    """Processor seconds of one epoch, medians."""

    rows: int
    plain: float
    restricted: float
    #: Of all the timed epochs together; None where only the medians were kept.
    seconds: float | None = None
    cpu_seconds: float | None = None

    @property
    def whole(self) -> files.Stopwatch:
        """What finding this out took; where no watch was kept, every epoch counts as a median."""
        estimate = (_REPEATS + 1) * (self.plain + self.restricted)
        return files.Stopwatch(
            estimate if self.seconds is None else self.seconds,
            estimate if self.cpu_seconds is None else self.cpu_seconds,
        )

    @property
    def ratio(self) -> float:
        """Restricted over plain."""
        return self.restricted / self.plain


def measure(problem: Problem, settings: Settings, folder: Path, progress: Progress) -> Cost:
    """Plain and restricted epochs in turn, from the same weights; kept once it is done."""
    path = folder / "restriction.json"
    if path.exists():
        return Cost(**files.read_json(path))
    rows = problem.data.train.subset(torch.arange(min(_ROWS, len(problem.data.train))))
    plain: list[float] = []
    restricted: list[float] = []
    with files.timed() as whole:
        for repeat in range(_REPEATS + 1):
            for alpha, taken in ((0.0, plain), (ALPHA, restricted)):
                recipe = replace(settings.recipe, epochs=1, patience=1, alpha=alpha)
                taken.append(_epoch(problem, rows, recipe))
            progress((repeat + 1) / (_REPEATS + 1))
    # The first of each warms up the allocator and the caches.
    medians = statistics.median(plain[1:]), statistics.median(restricted[1:])
    cost = Cost(len(rows), *medians, **vars(whole))
    files.write_json(path, vars(cost))
    return cost


def _epoch(problem: Problem, rows: Examples, recipe: training.Recipe) -> float:
    """Processor seconds of one epoch over ``rows`` from fresh weights."""
    held_out = problem.data.validation.subset(torch.arange(1))
    generator = torch.Generator().manual_seed(0)
    with files.timed() as watch:
        training.fit(problem.fresh(0), rows, held_out, recipe=recipe, generator=generator)
    return watch.cpu_seconds
