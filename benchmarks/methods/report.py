"""Markdown for people, JSON for machines, targets at the end."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.methods import files, plots, runs, space, table, targets
from benchmarks.methods.findings import Findings
from benchmarks.methods.measuring import Numbers
from benchmarks.methods.restriction import ALPHA
from benchmarks.methods.table import Line
from benchmarks.methods.targets import Target


def write(found: Findings) -> Path:
    """``NAME.json``, ``NAME.md`` and the plots in the results folder; the path of the second."""
    results.FOLDER.mkdir(exist_ok=True)
    reached = targets.judge(found)
    _print(reached)
    content = {"machine": _machine(), **_measured(found), "targets": [vars(t) for t in reached]}
    numbers = json.dumps(_plain(content), indent=1, allow_nan=False)
    (results.FOLDER / f"{found.name}.json").write_text(numbers + "\n")
    path = results.FOLDER / f"{found.name}.md"
    # Before anything is drawn: a picture that fails must not take the numbers with it.
    path.write_text(markdown(found, reached, {}))
    path.write_text(markdown(found, reached, _draw(found)))
    return path


def markdown(found: Findings, reached: Sequence[Target], drawn: Mapping[str, Path]) -> str:
    """The report with the pictures ``drawn``, by what they show."""
    parts = [
        f"# {_title(found)}",
        _setting(found),
        _reproduction(found),
        _table(found),
        _reading(found),
        "## Targets",
        _target_table(reached),
        *(f"## {title}\n\n![{title}]({path.name})" for title, path in drawn.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _draw(found: Findings) -> dict[str, Path]:
    """What the picture shows → its file."""
    name, bank, problem = found.name, found.bank, found.problem
    control, reference = found.baseline.control, found.baseline.scores[0]
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
    plots.trade_off(found.lines, found.baseline, found.base, trade_off)
    label = found.settings.forget_class
    space.draw(networks, problem.forget, problem.data.test, decision, label=label)
    return paths


def _measured(found: Findings) -> dict[str, Any]:
    problem, bank = found.problem, found.bank
    return {
        "command": found.settings.command,
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
            **vars(found.baseline.mean),
            "cpu_seconds": [reference.cpu_seconds for reference in bank.references],
            "each": [vars(numbers) for numbers in found.baseline.each],
            "divergence_between_forget": found.baseline.band_forget,
            "divergence_between_test": found.baseline.band_test,
        },
        "anchor": vars(bank.anchor_cost),
        "restriction": {**vars(found.restriction), "alpha": ALPHA},
        "methods": [_row(line) for line in (*found.lines, *found.refused)],
        "pending": found.pending,
        "total_seconds": {
            **_seconds(found.total()),
            "parts": {name: _seconds(watch) for name, watch in found.costs().items()},
        },
    }


def _seconds(watch: files.Stopwatch) -> dict[str, float]:
    return {"wall": watch.seconds, "processor": watch.cpu_seconds}


def _machine() -> dict[str, Any]:
    return {**results.machine(), "cores": os.cpu_count()}


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
        "code": line.run.code,
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


def _title(found: Findings) -> str:
    settings = found.settings
    what = "random rows" if settings.kind == "records" else f"class {settings.forget_class}"
    size = f" of width {settings.width}" if settings.width else ""
    quick = " (quick form: small, not the record)" if settings.quick else ""
    title = f"Methods on CIFAR-10 with {settings.architecture}{size}, {what} forgotten{quick}"
    missing = len(found.pending)
    every = missing + len(found.lines) + len(found.refused)
    return f"Unfinished, {missing} of {every} runs missing: {title}" if missing else title


def _setting(found: Findings) -> str:
    settings, problem, bank = found.settings, found.problem, found.bank
    restriction = f"gradient restriction {settings.alpha:g}" if settings.alpha else "plain training"
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
        "Seconds are processor seconds of the update alone.",
        "The anchor that `iau` steps from is prepared once after training"
        f" ({bank.anchor_cost.cpu_seconds:.1f} s); `amnesiac` needs the log of all training"
        " updates.",
    )
    return " ".join(sentences)


def _reproduction(found: Findings) -> str:
    """The command, the machine, and what all of it took."""
    machine, costs, total = _machine(), found.costs(), found.total()
    trained = costs["base"], costs["references"]
    busy = sum(w.cpu_seconds for w in trained) / sum(w.seconds for w in trained)
    parts = ", ".join(f"{name} {watch.cpu_seconds:,.0f} s" for name, watch in costs.items())
    whole = "What is finished" if found.pending else "All of it"
    paragraphs = (
        f"Made with `{found.settings.command}` on {machine['processor']}, {machine['cores']}"
        f" cores, torch {machine['torch']}, Python {machine['python']}.{_threads(found)} Training"
        f" the base and the references kept {busy:.1f} cores busy.",
        f"{whole} took {total.cpu_seconds:,.0f} processor seconds ({parts}) and"
        f" {total.seconds:,.0f} s by the wall, with whatever else the machine did. Processor"
        " seconds are added up over threads, not shared out among cores. Not in them are"
        " reading the rows, scoring the models and drawing.",
    )
    return "\n\n".join(paragraphs)


def _threads(found: Findings) -> str:
    counts = sorted({line.run.threads for line in (*found.lines, *found.refused)})
    if not counts:
        return ""
    several = "" if counts == [1] else "s"
    return f" The methods ran on {' or '.join(map(str, counts))} thread{several}."


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
    controls = (("*base, do nothing*", found.base), ("*retrained, mean*", found.baseline.mean))
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
    low, high = found.baseline.band_forget
    test_low, test_high = found.baseline.band_test
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
        lines.append(_cells([t.name, _amount(t.value), _amount(t.bound), _met(t)]))
    return "\n".join(lines)


def _print(reached: Sequence[Target]) -> None:
    rows = [(t.name, _amount(t.value), _amount(t.bound), "yes" if t.met else "NO") for t in reached]
    results.show("Targets", ("target", "value", "bound", "met"), rows)


def _amount(number: float | None) -> str:
    return "–" if number is None else f"{number:,.3f}"


def _met(target: Target) -> str:
    if target.met:
        return "yes"
    if target.value is None or target.bound is None or target.value <= target.bound:
        return f"no: {target.reason}"
    missed = f"no, missed by {target.value - target.bound:.3g}"
    return f"{missed}; {target.reason}" if target.reason else missed
