"""Forgetting what a network knows by heart, against models retrained without it.

    python -m benchmarks.memorised [--quick] [--models 20] [--only PROBLEM ...]

Many networks are trained on the same rows and, for each, those behind its out-of-fold margins; as
many are trained without the rows to forget. Each base is then unlearned by the calibrated and by
the matched step. Trained networks and measured problems lie in ``benchmarks/cache/memorised``: a
run that was cut short goes on where it stopped, and ``--again`` measures anew.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from torch import nn

from benchmarks import results
from benchmarks.memorised import measures, models, report, updates
from benchmarks.memorised import problems as digits
from benchmarks.memorised.measures import Line
from benchmarks.memorised.problems import Problem
from benchmarks.methods import files
from unlearning.anchored.margins import Splits

#: KLoM needs many models: the full form, and the short one that shows that it works.
_MODELS, _QUICK = 20, 4
_QUICK_PROBLEMS = ("flipped-4", "random")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two problems, four models each")
    parser.add_argument("--models", type=int, help=f"of each kind, {_MODELS} unless quick")
    parser.add_argument("--splits", type=int, default=2, help="of the rows, for the targets")
    parser.add_argument("--folds", type=int, default=2, help="of each split")
    parser.add_argument("--only", nargs="*", help="problems; measured and kept, not reported")
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    asked = parser.parse_args()
    count = asked.models or (_QUICK if asked.quick else _MODELS)
    splits = Splits(asked.splits, asked.folds)
    names = asked.only or (_QUICK_PROBLEMS if asked.quick else None)
    wanted = [p for p in digits.all_problems() if names is None or p.name in names]
    lines = []
    for problem in wanted:
        lines += _measured(problem, count, splits, again=asked.again)
        results.console.print(f"{problem.title}: measured")
    if asked.only is not None:
        return
    plain = (count, asked.splits, asked.folds)
    name = "memorised-quick" if asked.quick else "memorised"
    if plain != ((_QUICK if asked.quick else _MODELS), 2, 2):
        name += f"-{count}-models-{asked.splits}x{asked.folds}"
    command = f"python -m benchmarks.memorised {'--quick' if asked.quick else f'--models {count}'}"
    path = report.write(name, lines, wanted, command)
    results.console.print(f"Report: {path}")


def _measured(problem: Problem, count: int, splits: Splits, *, again: bool) -> list[Line]:
    path = _path(problem, count, splits)
    if again or not path.exists():
        lines = _measure(problem, count, splits)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"lines": [asdict(line) for line in lines]})
    return [Line(**line) for line in files.read_json(path)["lines"]]


def _path(problem: Problem, count: int, splits: Splits) -> Path:
    return models.CACHE / f"{problem.name}-{count}-{splits.splits}x{splits.folds}.json"


def _measure(problem: Problem, count: int, splits: Splits) -> list[Line]:
    bases = models.bases(problem.data, count, splits)
    retrained = models.retrained(problem, count)
    yardstick = measures.margins_of(retrained, problem)
    calibrated: list[nn.Module] = []
    matched: list[nn.Module] = []
    for base in bases:
        prepared = updates.anchor(base, problem)
        calibrated.append(updates.calibrated(base, problem, prepared))
        matched.append(updates.matched(base, problem, prepared))
    half = len(retrained) // 2
    first = measures.margins_of(retrained[:half], problem)
    return [
        measures.line(report.BASE, [b.model for b in bases], problem, yardstick),
        measures.line(report.TODAY, calibrated, problem, yardstick),
        measures.line(report.MATCHED, matched, problem, yardstick),
        measures.line(report.RETRAINED, retrained[half:], problem, first),
    ]


if __name__ == "__main__":
    main()
