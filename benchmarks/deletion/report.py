"""What the parts of ``results/deletion.json`` hold, the targets, and tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from benchmarks import results
from benchmarks.deletion.bench import Measured
from benchmarks.deletion.streams import Streamed

#: Least ratio of a retraining's seconds to the update's, by step and forgotten rows.
RATIOS = {
    "matched": {1: 500.0, 45: 250.0, 450: 80.0, 2250: 25.0},
    "calibrated": {1: 1000.0, 45: 1000.0, 450: 300.0, 2250: 100.0},
}

_COLUMNS = (
    *("rows", "method", "seconds", "test", "forget", "AUC", "low", "high"),
    *("calibrated AUC", "rms"),
)


def show(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what was measured, by its stored form."""
    lines = [line for part in parts.values() for line in part.get("lines", [])]
    if lines:
        results.show("Forgetting on CIFAR-10 with LeNet-5", _COLUMNS, [_row(one) for one in lines])
    for name, part in parts.items():
        for one in part.get("streams", []):
            rows = [_row(one[which]) for which in ("streamed", "at_once", "retrained")]
            results.show(f"{name}: {one['stream']}", _COLUMNS, rows)
    if took := parts.get("prepare", {}).get("took"):
        results.console.print(", ".join(f"{name} {value:.1f} s" for name, value in took.items()))
    if gradient := parts.get("retain-gradient"):
        results.console.print(
            f"Retain gradient of {gradient['rows']} rows: cached {gradient['cached'] * 1000:.2f} "
            f"ms, full pass {gradient['full']:.2f} s, relative difference "
            f"{gradient['difference']:.1e}."
        )


def of_preparation(seconds: Mapping[str, float]) -> list[results.Target]:
    """Return what the base's training, its margins and its anchor may cost."""
    ratio = seconds["margins"] / seconds["training"]
    return [results.at_most("one split of margins / training seconds", ratio, 1.3)]


def of_seconds(lines: Sequence[Measured]) -> list[results.Target]:
    """Return by what factor the updates of a number of rows are faster than a retraining."""
    by = {line.method: line for line in lines}
    count = lines[0].forgotten
    return [
        results.at_least(
            f"retrain / update seconds, {step}, {count} rows",
            by["retrain"].seconds / by[step].seconds,
            bounds[count],
        )
        for step, bounds in RATIOS.items()
    ]


def of_removal(lines: Sequence[Measured]) -> list[results.Target]:
    """Return what the matched step is to reach, compared with retrained models."""
    by = {line.method: line for line in lines}
    base, ours, gold = (by[name] for name in ("base", "matched", "retrain"))
    count = ours.forgotten
    closed = 1 - abs(ours.auc - gold.auc) / abs(base.auc - gold.auc)
    return [
        results.at_most(f"AUC distance to retrained, {count}", abs(ours.auc - gold.auc), 0.015),
        results.at_least(f"share of the AUC gap closed, {count} rows", closed, 0.75),
        results.at_most(
            f"test accuracy under the base's in points, {count} rows",
            100 * (base.test_accuracy - ours.test_accuracy),
            0.5,
        ),
    ]


def of_gradient(measured: Mapping[str, float]) -> list[results.Target]:
    """Return by what factor the cached retain gradient is faster."""
    return [
        results.at_least(
            f"full / cached retain gradient seconds, {measured['rows']} rows",
            measured["full"] / measured["cached"],
            500.0,
        )
    ]


def of_stream(one: Streamed) -> list[results.Target]:
    """Return how near a stream is to come to one batch of the same rows."""
    if one.step != "matched":
        return []
    ours, single = one.streamed, one.at_once
    return [
        results.at_most(
            f"{one.stream.title} against one batch: calibrated AUC",
            abs(ours.calibrated_auc - single.calibrated_auc),
            0.02,
        ),
        results.at_most(
            f"{one.stream.title} against one batch: test accuracy in points",
            100 * abs(ours.test_accuracy - single.test_accuracy),
            0.5,
        ),
    ]


def of_table(one: Streamed) -> list[results.Target]:
    """Return what may be lost of a table that was learned by heart."""
    return [
        results.at_most(
            f"a fifth of the table in {one.stream.title}: test accuracy under retrained in points",
            100 * (one.retrained.test_accuracy - one.streamed.test_accuracy),
            2.0,
        )
    ]


def of_streamed(one: Streamed) -> dict[str, object]:
    """Return a stream as it is stored."""
    return {
        "stream": one.stream.title,
        "step": one.step,
        "streamed": plain(one.streamed),
        "at_once": plain(one.at_once),
        "retrained": plain(one.retrained),
    }


def plain(line: Measured) -> dict[str, object]:
    """Return a line as it is stored: a number that is not finite is null."""
    named: dict[str, float | str] = asdict(line)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in named.items()
    }


def _row(line: Mapping[str, Any]) -> list[object]:
    values = [line.get(field.name) for field in fields(Measured)]
    return ["" if value is None else value for value in values]
