"""The finished runs, measured and ranked, best average rank first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.methods import measuring, ranking
from benchmarks.methods.measuring import Baseline, Numbers
from benchmarks.methods.ranking import Ranks
from benchmarks.methods.runs import Run
from benchmarks.methods.settings import DEFAULT, Entry


@dataclass(frozen=True)
class Line:
    """One method in one setting; numbers and ranks are None where it gave no model."""

    run: Run
    numbers: Numbers | None
    ranks: Ranks | None

    @property
    def entry(self) -> Entry:
        """What was run."""
        return self.run.entry

    @property
    def title(self) -> str:
        """Method, form and strength in words."""
        strength = {"authors": "authors' setting", "calibrated": "calibrated"}
        return f"{self.entry.label}, {strength[self.entry.strength]}"


@dataclass(frozen=True)
class Measured(Line):
    """A line of a method that gave a model."""

    numbers: Numbers
    ranks: Ranks


def make(runs: Iterable[Run], against: Baseline) -> tuple[list[Measured], list[Line]]:
    """Lines of the methods that gave a model, ranked; lines of those that did not."""
    runs = list(runs)
    numbers = {
        run.entry.name: (measuring.measure(run.scores, against), run.cpu_seconds)
        for run in runs
        if run.scores is not None
    }
    ranks = ranking.rank(numbers)
    ranked = [
        Measured(run, numbers[run.entry.name][0], ranks[run.entry.name])
        for run in runs
        if run.scores is not None
    ]
    refused = [Line(run, None, None) for run in runs if run.scores is None]
    return sorted(ranked, key=lambda line: line.ranks.average), refused


def default(lines: Iterable[Measured]) -> Measured | None:
    """The service's default method as it is used."""
    return next((line for line in lines if is_default(line)), None)


def is_default(line: Line) -> bool:
    """Whether the line is the service's default."""
    return line.entry.method == DEFAULT and not line.entry.form


def shown(lines: list[Measured]) -> list[Measured]:
    """For plots: the default, its released form, and the best other method of either strength."""
    picked = [line for line in lines if is_default(line)]
    picked += [line for line in lines if line.entry.form == "released"]
    for strength in ("authors", "calibrated"):
        others = [
            line
            for line in lines
            if line.entry.method != DEFAULT and line.entry.strength == strength
        ]
        picked += others[:1]
    return picked
