"""Forgetting what a network knows by heart, against models retrained without it.

    python -m benchmarks.memorised [--quick] [--models 20] [--only PROBLEM ...]

Many networks are trained on the same rows and, for each, those behind its out-of-fold margins; as
many are trained without the rows to forget. Each base is then unlearned by the calibrated and by
the matched step. Trained networks and measured problems lie in ``benchmarks/cache/memorised``: a
run that was cut short goes on where it stopped, and ``--again`` measures anew. Of the first seed
the margins of single rows are kept (``results/memorised-rows.json``) and drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import nn

from benchmarks import results
from benchmarks.memorised import measures, models, pictures, report, rows, updates
from benchmarks.memorised import problems as digits
from benchmarks.memorised.measures import Line
from benchmarks.memorised.problems import Problem
from benchmarks.memorised.rows import Rows
from benchmarks.methods import files
from benchmarks.parts import code as code_version
from benchmarks.parts import distinct
from benchmarks.progress import Steps, Tell
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
    parser.add_argument(
        "--pictures", action="store_true", help="only keep the margins of one seed and draw them"
    )
    asked = parser.parse_args()
    count = asked.models or (_QUICK if asked.quick else _MODELS)
    splits = Splits(asked.splits, asked.folds)
    names = asked.only or (_QUICK_PROBLEMS if asked.quick else None)
    wanted = [p for p in digits.all_problems() if names is None or p.name in names]
    lines: list[Line] = []
    code: list[Mapping[str, str]] = []
    shown: dict[str, Rows] = {}
    with Steps([1.0] * len(wanted)) as steps:
        for problem in wanted:
            tell = steps.begin(problem.title)
            if not asked.pictures:
                found, version = _measured(problem, count, splits, tell, again=asked.again)
                lines += found
                code.append(version)
            shown[problem.name] = rows.measure(problem, splits)
        steps.end()
    if asked.pictures:
        _draw("memorised", shown)
    if asked.only is not None or asked.pictures:
        return
    plain = (count, asked.splits, asked.folds)
    name = "memorised-quick" if asked.quick else "memorised"
    if plain != ((_QUICK if asked.quick else _MODELS), 2, 2):
        name += f"-{count}-models-{asked.splits}x{asked.folds}"
    command = f"python -m benchmarks.memorised {'--quick' if asked.quick else f'--models {count}'}"
    drawn = _draw(name, shown)
    path = report.write(name, lines, wanted, command, code=distinct(code), pictures=drawn)
    results.console.print(f"Report: {path}")


def _draw(name: str, shown: Mapping[str, Rows]) -> dict[str, Path]:
    """Keep the margins of problems in ``results/NAME-rows.json``; draw them, and return where."""
    path = rows.keep(f"{name}-rows", shown)
    drawn = {}
    for problem, one in rows.read(f"{name}-rows").items():
        if problem in shown:
            drawn[problem] = results.FOLDER / f"{name}-rows-{problem}.png"
            pictures.draw(one, drawn[problem])
    results.console.print(f"Drawn from {results.shown(path)}: {', '.join(drawn)}", markup=False)
    return drawn


def _measured(
    problem: Problem, count: int, splits: Splits, tell: Tell, *, again: bool
) -> tuple[list[Line], Mapping[str, str]]:
    """Return the lines of a problem, and by which code they were measured."""
    path = _path(problem, count, splits)
    if again or not path.exists():
        lines = _measure(problem, count, splits, tell)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"code": code_version(), "lines": [asdict(one) for one in lines]})
    stored = files.read_json(path)
    return [Line(**line) for line in stored["lines"]], stored.get("code", {})


def _path(problem: Problem, count: int, splits: Splits) -> Path:
    return models.CACHE / f"{problem.name}-{count}-{splits.splits}x{splits.folds}.json"


def _measure(problem: Problem, count: int, splits: Splits, tell: Tell) -> list[Line]:
    tell(0.0, "training")
    bases = models.bases(problem.data, count, splits)
    retrained = models.retrained(problem, count)
    reference = measures.margins_of(retrained, problem)
    calibrated: list[nn.Module] = []
    matched: list[nn.Module] = []
    for done, base in enumerate(bases):
        tell(0.4 + 0.6 * done / count)
        prepared = updates.anchor(base, problem)
        calibrated.append(updates.calibrated(base, problem, prepared))
        matched.append(updates.matched(base, problem, prepared))
    half = len(retrained) // 2
    first = measures.margins_of(retrained[:half], problem)
    return [
        measures.line(report.BASE, [b.model for b in bases], problem, reference),
        measures.line(report.TODAY, calibrated, problem, reference),
        measures.line(report.MATCHED, matched, problem, reference),
        measures.line(report.RETRAINED, retrained[half:], problem, first),
    ]


if __name__ == "__main__":
    main()
