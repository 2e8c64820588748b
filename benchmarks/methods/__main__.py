"""Every unlearning method against retraining.

    python -m benchmarks.methods [--kind class] [--architecture resnet18 --width 16] [--quick]

Trains a base model and references on the retained rows, runs every installed method with its
authors' setting and with calibrated strength, and writes what they reach. A run that is cut short
goes on where it stopped: what is finished lies in ``benchmarks/cache/methods``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import cifar, results
from benchmarks.methods import bank as banks
from benchmarks.methods import findings, report, restriction, runs
from benchmarks.methods import problem as problems
from benchmarks.methods import settings as asking
from benchmarks.methods.findings import Findings
from benchmarks.methods.problem import Problem
from benchmarks.methods.settings import Entry, Settings
from benchmarks.progress import Steps

FOLDER = cifar.CACHE / "methods"


def main() -> None:
    """Run the benchmark from the command line."""
    settings, asked = asking.parse()
    problem = problems.load(settings)
    found = walk(problem, settings, FOLDER, again=asked.again, only_finished=asked.finished)
    path = report.write(found)
    results.console.print(f"Report: {path}")


def walk(
    problem: Problem,
    settings: Settings,
    folder: Path,
    *,
    entries: Sequence[Entry] | None = None,
    again: Sequence[str] = (),
    only_finished: bool = False,
) -> Findings:
    """Train, run, measure; what is in ``folder`` is not done twice."""
    wanted = asking.entries(settings.kind) if entries is None else list(entries)
    place = folder / problems.key(problem, settings)
    for entry in wanted:
        if entry.method in again:
            runs.forget_finished(entry, place)
    with Steps([1.0] * (3 + settings.references + len(wanted))) as steps:
        bank = banks.fill(problem, settings, place, steps.begin)
        cost = restriction.measure(
            problem, settings, place, steps.begin("Epochs with gradient restriction")
        )
        done, pending = [], []
        for entry in wanted:
            progress = steps.begin(f"{entry.label}, {entry.strength}")
            run = runs.finished(entry, place)
            if run is None and only_finished:
                pending.append(f"{entry.label} ({entry.strength})")
                continue
            done.append(run or runs.run(entry, bank, problem, settings, progress))
        steps.end()
    return findings.gather(settings, problem, bank, done, pending, cost)


if __name__ == "__main__":
    main()
