"""Markdown for people, JSON for machines, targets at the end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.methods import measuring, plots, runs, space, table
from benchmarks.methods.bank import Bank
from benchmarks.methods.measuring import Numbers, Yardstick
from benchmarks.methods.problem import Problem
from benchmarks.methods.restriction import ALPHA, Cost
from benchmarks.methods.settings import Settings
from benchmarks.methods.table import Line, Measured
from benchmarks.results import Target

#: What the default method must reach.
AUC_DISTANCE, FORGET_POINTS, TEST_POINTS, RESTRICTED_EPOCH = 0.015, 2.0, 0.5, 2.1


@dataclass(frozen=True)
class Findings:
    """All that was measured."""

    settings: Settings
    problem: Problem
    bank: Bank
    yardstick: Yardstick
    base: Numbers
    lines: list[Measured]
    refused: list[Line]
    #: Labels of the entries that have not been run yet.
    pending: list[str]
    restriction: Cost


def findings(
    settings: Settings,
    problem: Problem,
    bank: Bank,
    done: Sequence[runs.Run],
    pending: list[str],
    restriction: Cost,
) -> Findings:
    """Measure and rank what was run."""
    control, references = runs.trained_scores(bank, problem)
    yardstick = measuring.yardstick(references, control)
    lines, refused = table.make(done, yardstick)
    base = measuring.measure(control, yardstick)
    return Findings(settings, problem, bank, yardstick, base, lines, refused, pending, restriction)


def write(found: Findings) -> Path:
    """Plots, ``NAME.json`` and ``NAME.md`` in the results folder; the path of the last."""
    results.FOLDER.mkdir(exist_ok=True)
    drawn = _draw(found)
    reached = targets(found)
    results.write(found.settings.name, _plain(_measured(found)), reached)
    path = results.FOLDER / f"{found.settings.name}.md"
    path.write_text(markdown(found, reached, drawn))
    return path


def targets(found: Findings) -> list[Target]:
    """What was to be reached, and whether it was."""
    reached = []
    ours = table.default(found.lines)
    if ours is not None:
        others = [line.ranks.average for line in found.lines if line is not ours]
        numbers = ours.numbers
        reached = [
            results.at_most(
                "iau: average rank, against the best other",
                ours.ranks.average,
                min(others, default=math.inf),
            ),
            results.at_most("iau: AUC distance to retrained", numbers.auc_distance, AUC_DISTANCE),
            results.at_most(
                "iau: forget accuracy from retrained, points",
                100 * numbers.forget_distance,
                FORGET_POINTS,
            ),
            results.at_most(
                "iau: test accuracy under the base's, points",
                100 * (found.base.test - numbers.test),
                TEST_POINTS,
            ),
        ]
    ratio = found.restriction.ratio
    return [
        *reached,
        results.at_most("restricted / plain epoch, two-pass form", ratio, RESTRICTED_EPOCH),
    ]


def markdown(found: Findings, reached: Sequence[Target], drawn: Mapping[str, Path]) -> str:
    """The report with the pictures ``drawn``, by what they show."""
    parts = [
        f"# {_title(found.settings)}",
        _setting(found),
        _table(found),
        _reading(found),
        "## Targets",
        _target_table(reached),
        *(f"## {title}\n\n![{title}]({path.name})" for title, path in drawn.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _draw(found: Findings) -> dict[str, Path]:
    """What the picture shows → its file."""
    name, bank, problem = found.settings.name, found.bank, found.problem
    control, reference = found.yardstick.control, found.yardstick.scores[0]
    picked = table.shown(found.lines)
    scored = {"base (do nothing)": control, "retrained": reference}
    scored |= {line.title: line.run.scores for line in picked if line.run.scores is not None}
    networks = {"base (do nothing)": bank.base.model, "retrained": bank.references[0].model}
    networks |= {line.title: runs.model(line.run, bank, problem) for line in picked}
    files = {
        "Losses before and after, against never-seen rows": f"{name}-losses.png",
        "Receiver operating characteristic of the loss attack": f"{name}-roc.png",
        "Accuracy against membership": f"{name}-trade-off.png",
        "Decision space (an illustration, not a measure)": f"{name}-space.png",
    }
    paths = {title: results.FOLDER / file for title, file in files.items()}
    losses, roc, trade_off, decision = paths.values()
    plots.losses(scored, control, losses)
    plots.roc(scored, control, roc)
    plots.trade_off(found.lines, found.yardstick, found.base, trade_off)
    label = found.settings.forget_class
    space.draw(networks, problem.forget, problem.data.test, decision, label=label)
    return paths


def _measured(found: Findings) -> dict[str, Any]:
    problem, bank = found.problem, found.bank
    return {
        "settings": {**found.settings.identity(), "references": found.settings.references},
        "rows": {
            "train": len(problem.data.train),
            "forget": len(problem.forget),
            "validation": len(problem.data.validation),
            "test": len(problem.data.test),
            "retain_scored": len(problem.retain_sample),
        },
        "base": {**vars(found.base), "cpu_seconds": bank.base.cpu_seconds},
        "retrained": {
            **vars(found.yardstick.mean),
            "cpu_seconds": [reference.cpu_seconds for reference in bank.references],
            "each": [vars(numbers) for numbers in found.yardstick.each],
            "divergence_between_forget": found.yardstick.band_forget,
            "divergence_between_test": found.yardstick.band_test,
        },
        "anchor": vars(bank.anchor_cost),
        "restriction": {**vars(found.restriction), "alpha": ALPHA},
        "methods": [_row(line) for line in (*found.lines, *found.refused)],
        "pending": found.pending,
    }


def _row(line: Line) -> dict[str, Any]:
    return {
        **dataclasses.asdict(line.entry),
        **(vars(line.numbers) if line.numbers else {}),
        "seconds": line.run.seconds,
        "cpu_seconds": line.run.cpu_seconds,
        "threads": line.run.threads,
        "ranks": {**vars(line.ranks), "average": line.ranks.average} if line.ranks else None,
        "refused": line.run.refused,
        "retrain_because": list(line.run.retrain_because),
        "notes": line.run.notes,
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _title(settings: Settings) -> str:
    what = "random rows" if settings.kind == "records" else f"class {settings.forget_class}"
    size = f" of width {settings.width}" if settings.width else ""
    quick = " (quick form: small, not the record)" if settings.quick else ""
    return f"Methods on CIFAR-10 with {settings.architecture}{size}, {what} forgotten{quick}"


def _setting(found: Findings) -> str:
    settings, problem, bank = found.settings, found.problem, found.bank
    restriction = f"gradient restriction {settings.alpha:g}" if settings.alpha else "plain training"
    machine = results.machine()
    fewer = (
        " Fewer rows than CIFAR-10 has, so that a processor is done within the hour: the intervals"
        " are wide."
        if settings.rows
        else ""
    )
    retrains = [reference.cpu_seconds for reference in bank.references]
    seconds = sum(retrains) / len(retrains)
    sentences = (
        f"{len(problem.forget):,} of {len(problem.data.train):,} training rows are forgotten;"
        f" {len(problem.data.test):,} never-seen rows judge, {len(problem.data.validation):,}"
        f" others set targets and guards.{fewer}",
        f"Adam 1e-3, batch {settings.batch_size}, {settings.epochs} epochs, {restriction};"
        f" {len(bank.references)} models retrained from other seeds are the reference"
        f" ({seconds:.1f} s each, the base {bank.base.cpu_seconds:.1f} s).",
        "Seconds are processor seconds of the update alone,"
        f" on {machine['processor']} with {_threads(found)} thread(s).",
        "The anchor that `iau` steps from is prepared once after training"
        f" ({bank.anchor_cost.cpu_seconds:.1f} s); `amnesiac` needs the log of all training"
        " updates.",
    )
    return " ".join(sentences)


def _threads(found: Findings) -> str:
    counts = sorted({line.run.threads for line in found.lines})
    return " or ".join(str(count) for count in counts) or str(results.machine()["threads"])


_COLUMNS = (
    "method",
    "test",
    "retain",
    "forget",
    "from retrained",
    "AUC (95 %)",
    "from retrained",
    "TPR at 1 % FPR",
    "divergence, forget",
    "test",
    "seconds",
    "removal",
    "utility",
    "time",
    "**rank**",
)


def _table(found: Findings) -> str:
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    controls = (("*base, do nothing*", found.base), ("*retrained, mean*", found.yardstick.mean))
    for title, numbers in controls:
        lines.append(_cells([title, *_numbers(numbers), "", "", "", "", ""]))
    for line in found.lines:
        ranks, title = line.ranks, line.title
        title = f"**{title}**" if table.is_default(line) else title
        title += " †" if line.run.retrain_because else ""
        places = [f"{rank:g}" for rank in (ranks.removal, ranks.utility, ranks.time)]
        seconds = f"{line.run.cpu_seconds:.2f}"
        cells = [title, *_numbers(line.numbers), seconds, *places, f"**{ranks.average:.1f}**"]
        lines.append(_cells(cells))
    return "\n".join(lines)


def _numbers(numbers: Numbers) -> list[str]:
    return [
        f"{100 * numbers.test:.1f}",
        f"{100 * numbers.retain:.1f}",
        f"{100 * numbers.forget:.1f}",
        f"{100 * numbers.forget_distance:.1f}",
        f"{numbers.auc:.3f} ({numbers.auc_low:.3f}–{numbers.auc_high:.3f})",
        f"{numbers.auc_distance:.3f}",
        f"{100 * numbers.tpr:.1f} %",
        f"{numbers.divergence_forget:.3f}",
        f"{numbers.divergence_test:.3f}",
    ]


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _reading(found: Findings) -> str:
    low, high = found.yardstick.band_forget
    test_low, test_high = found.yardstick.band_test
    fpr = [line.numbers.realised_fpr for line in found.lines]
    paragraphs = [
        "Accuracies in %, their distances in points. The rank is the mean of three: removal (the"
        " ranks of both distances from retrained, averaged and ranked again), utility (test"
        " accuracy) and time. The distances of the retrained models are each one's from the"
        " others.",
        f"Two retrained models differ by {low:.3f}–{high:.3f} bits of Jensen-Shannon divergence on"
        f" the forget rows and {test_low:.3f}–{test_high:.3f} on never-seen rows; a method within"
        " that band is as near to a retrained model as another one is.",
    ]
    if found.settings.kind == "class":
        paragraphs.append(
            "Test accuracy is that on the other classes; the attack compares the class's training"
            " rows with its never-seen rows."
        )
    if fpr:
        paragraphs.append(f"Realised false positive rates: {min(fpr):.4f}–{max(fpr):.4f}.")
    if any(line.run.retrain_because for line in found.lines):
        paragraphs.append("† These updates say themselves that they fall short:")
        paragraphs.append(
            "\n".join(
                f"- {line.title}: {'; '.join(line.run.retrain_because)}"
                for line in found.lines
                if line.run.retrain_because
            )
        )
    if found.refused:
        paragraphs.append("Gave no model:")
        refused = [f"- {line.title}: {line.run.refused}" for line in found.refused]
        paragraphs.append("\n".join(refused))
    if found.pending:
        names = ", ".join(found.pending)
        paragraphs.append(f"**Not run yet, and missing from the ranks:** {names}.")
    paragraphs.append(_with_anchor(found))
    return "\n\n".join(part for part in paragraphs if part)


def _with_anchor(found: Findings) -> str:
    """What becomes of the default's rank when its preparation is charged to one deletion."""
    ours = table.default(found.lines)
    if ours is None:
        return ""
    whole = ours.run.cpu_seconds + found.bank.anchor_cost.cpu_seconds
    others = [line.run.cpu_seconds for line in found.lines if line is not ours]
    time = 1 + sum(seconds < whole for seconds in others)
    average = (ours.ranks.removal + ours.ranks.utility + time) / 3
    return (
        f"If the whole anchor were charged to this one deletion, `iau` would take {whole:.1f} s,"
        f" rank {time} in time and {average:.1f} on average."
    )


def _target_table(reached: Sequence[Target]) -> str:
    lines = ["| target | value | bound | met |", "|---|---|---|---|"]
    for t in reached:
        met = "yes" if t.met else f"no, missed by {abs(t.value - t.bound):.3g}"
        lines.append(_cells([t.name, f"{t.value:.3f}", f"{t.bound:.3f}", met]))
    return "\n".join(lines)
