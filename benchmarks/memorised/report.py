"""From measured lines to a table, JSON and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import results
from benchmarks.memorised.measures import Line
from benchmarks.memorised.problems import Problem
from benchmarks.results import Target

BASE, TODAY, MATCHED, RETRAINED = "do nothing", "calibrated", "matched", "retrained"

_HEAD = (
    "| | forget | by true label | test | retain | AUC | calibrated AUC | rms | KLoM forget "
    "| KLoM retain | KLoM validation |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def write(
    name: str,
    lines: Sequence[Line],
    problems: Sequence[Problem],
    command: str,
    *,
    code: Sequence[Mapping[str, str]],
    pictures: Mapping[str, Path],
) -> Path:
    """Write ``results/NAME.json`` and ``results/NAME.md``; return the latter.

    ``code``: the versions that measured the lines; ``pictures`` by the problem's name.
    """
    measured = {"command": command, "code": list(code), "lines": [asdict(line) for line in lines]}
    found = [t for p in problems for t in targets([x for x in lines if x.problem == p.name])]
    results.write(name, measured, found)
    path = results.FOLDER / f"{name}.md"
    path.write_text(_text(lines, problems, found, command, pictures))
    return path


def targets(lines: Sequence[Line]) -> list[Target]:
    """Return what the matched step is to reach on one problem."""
    by = {line.method: line for line in lines}
    base, today, ours, theirs = (by[name] for name in (BASE, TODAY, MATCHED, RETRAINED))
    name = ours.problem
    lost = 100 * (base.test_accuracy - ours.test_accuracy)
    below = 100 * (theirs.test_accuracy - ours.test_accuracy)
    return [
        results.at_most(
            f"{name}: forget accuracy from retrained in points",
            100 * abs(ours.forget_accuracy - theirs.forget_accuracy),
            5.0,
        ),
        Target(
            f"{name}: test accuracy in points under the base's, or not under retrained",
            lost,
            0.5,
            lost <= 0.5 or below <= 0,
        ),
        results.at_most(
            f"{name}: calibrated AUC from retrained",
            abs(ours.calibrated_auc - theirs.calibrated_auc),
            0.03,
        ),
        results.at_most(
            f"{name}: median KLoM of forgotten rows, against a quarter of do-nothing's",
            ours.klom_median,
            base.klom_median / 4,
        ),
        results.at_most(
            f"{name}: 95th percentile of KLoM of forgotten rows, against the calibrated step's",
            ours.klom_95,
            today.klom_95,
        ),
    ]


def _text(
    lines: Sequence[Line],
    problems: Sequence[Problem],
    found: Sequence[Target],
    command: str,
    pictures: Mapping[str, Path],
) -> str:
    parts = [
        "# Rows that a network knows by heart\n\n"
        f"Made by `{command}`. Digits, MLP 64-256-128-10, 1,000 training rows. Accuracies in per "
        "cent; KLoM as median / 95th percentile over rows, of normal fits, capped at 12; *rms*: "
        "margins of the forgotten rows from those of three retrained models. *retrained* is one "
        "half of the retrained models against the other. The pictures show single rows under the "
        "networks of one seed; on the diagonal a row is as if it had never been seen.\n"
    ]
    for problem in problems:
        own = [line for line in lines if line.problem == problem.name]
        parts.append(f"\n## {problem.title}\n\n{own[0].models} models each.\n\n{_HEAD}")
        parts += [_row(line) for line in own]
        if problem.name in pictures:
            parts.append(f"\n![{problem.title}]({pictures[problem.name].name})\n")
    parts.append("\n## Targets\n\n| target | value | bound | met |\n|---|---|---|---|\n")
    parts += [
        f"| {t.name} | {t.value:.3g} | {t.bound:.3g} | {'yes' if t.met else '**no**'} |\n"
        for t in found
    ]
    return "".join(parts)


def _row(line: Line) -> str:
    percents = (
        line.forget_accuracy,
        line.true_accuracy,
        line.test_accuracy,
        line.retain_accuracy,
    )
    cells = [f"{100 * value:.1f}" for value in percents]
    cells += [f"{line.auc:.3f}", f"{line.calibrated_auc:.3f}", f"{line.rms:.2f}"]
    cells += [
        f"{line.klom_median:.2f} / {line.klom_95:.2f}",
        f"{line.klom_retain:.2f} / {line.klom_retain_95:.2f}",
        f"{line.klom_validation:.2f} / {line.klom_validation_95:.2f}",
    ]
    return f"| {line.method} | {' | '.join(cells)} |\n"
