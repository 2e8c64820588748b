"""All that a run of the benchmark measured, before it is written down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.methods import files, measuring, runs, table
from benchmarks.methods.bank import Bank, Trained
from benchmarks.methods.measuring import Baseline, Numbers
from benchmarks.methods.problem import Problem
from benchmarks.methods.restriction import Cost
from benchmarks.methods.settings import Settings
from benchmarks.methods.table import Line, Measured


@dataclass(frozen=True)
class Findings:
    """All that was measured."""

    settings: Settings
    problem: Problem
    bank: Bank
    baseline: Baseline
    base: Numbers
    lines: list[Measured]
    refused: list[Line]
    #: Labels of the entries that have not been run yet.
    pending: list[str]
    restriction: Cost

    @property
    def name(self) -> str:
        """Name of the files; those of the settings are for when nothing is missing."""
        return f"{self.settings.name}-unfinished" if self.pending else self.settings.name

    def costs(self) -> dict[str, files.Stopwatch]:
        """Seconds of each part, from the stopwatches that were kept with the finished work."""
        return {
            "base": _sum([self.bank.base]),
            "anchor": _sum([self.bank.anchor_cost]),
            "references": _sum(self.bank.references),
            "restriction": self.restriction.whole,
            "methods": _sum([line.run for line in (*self.lines, *self.refused)]),
        }

    def total(self) -> files.Stopwatch:
        """Seconds of everything that was timed."""
        return _sum(self.costs().values())


def gather(
    settings: Settings,
    problem: Problem,
    bank: Bank,
    done: Sequence[runs.Run],
    pending: list[str],
    restriction: Cost,
) -> Findings:
    """Measure and rank what was run."""
    control, references = runs.trained_scores(bank, problem)
    baseline = measuring.baseline(references, control)
    lines, refused = table.make(done, baseline)
    base = measuring.measure(control, baseline)
    return Findings(settings, problem, bank, baseline, base, lines, refused, pending, restriction)


def _sum(parts: Iterable[files.Stopwatch | Trained | runs.Run]) -> files.Stopwatch:
    parts = list(parts)
    return files.Stopwatch(
        sum(part.seconds for part in parts), sum(part.cpu_seconds for part in parts)
    )
