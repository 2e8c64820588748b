"""Tables, ``results/deletion.json`` and the targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass

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


@dataclass(frozen=True)
class RetainPass:
    """Seconds of the retained rows' gradient, cached and by a full pass; relative difference."""

    cached: float
    full: float
    difference: float


def write(
    lines: Sequence[Measured],
    largest: int,
    seconds: Mapping[str, float],
    retained: RetainPass,
    streamed: Sequence[Streamed],
    by_heart: Sequence[Streamed],
) -> None:
    """Print everything and write ``results/deletion.json``."""
    results.show("Forgetting on CIFAR-10 with LeNet-5", _COLUMNS, [astuple(one) for one in lines])
    show_streams(streamed)
    show_streams(by_heart)
    parts = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
    results.console.print(
        f"{parts}. Retain gradient of 45 rows: cached {retained.cached * 1000:.2f} ms, full pass "
        f"{retained.full:.2f} s, relative difference {retained.difference:.1e}."
    )
    results.write(
        "deletion",
        {
            "lines": [_plain(one) for one in lines],
            "seconds": dict(seconds),
            "retain_gradient": asdict(retained),
            "streams": [_stream(one) for one in streamed],
            "table": [_stream(one) for one in by_heart],
        },
        [
            *_of_sizes(lines, largest, seconds, retained),
            *(target for one in streamed for target in _of_stream(one)),
            *(target for one in by_heart for target in _of_table(one)),
        ],
    )


def show_streams(found: Sequence[Streamed]) -> None:
    """Print what streams reached."""
    for one in found:
        lines = (one.streamed, one.at_once, one.retrained)
        results.show(one.stream.title, _COLUMNS, [astuple(line) for line in lines])


def _of_sizes(
    lines: Sequence[Measured], largest: int, seconds: Mapping[str, float], retained: RetainPass
) -> list[results.Target]:
    by = {(line.forgotten, line.method): line for line in lines}
    base, ours, gold = (by[largest, name] for name in ("base", "matched", "retrain"))
    closed = 1 - abs(ours.auc - gold.auc) / abs(base.auc - gold.auc)
    return [
        *(
            results.at_least(
                f"retrain / update seconds, {step}, {count} rows",
                by[count, "retrain"].seconds / by[count, step].seconds,
                bound,
            )
            for step, bounds in RATIOS.items()
            for count, bound in bounds.items()
        ),
        results.at_most(
            "one split of margins / training seconds", seconds["margins"] / seconds["training"], 1.3
        ),
        results.at_least(
            "full / cached retain gradient seconds, 45 rows", retained.full / retained.cached, 500.0
        ),
        results.at_most(f"AUC distance to retrained, {largest}", abs(ours.auc - gold.auc), 0.015),
        results.at_least(f"share of the AUC gap closed, {largest} rows", closed, 0.75),
        results.at_most(
            f"test accuracy under the base's in points, {largest} rows",
            100 * (base.test_accuracy - ours.test_accuracy),
            0.5,
        ),
    ]


def _of_stream(one: Streamed) -> list[results.Target]:
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


def _of_table(one: Streamed) -> list[results.Target]:
    return [
        results.at_most(
            f"a fifth of the table in {one.stream.title}: test accuracy under retrained in points",
            100 * (one.retrained.test_accuracy - one.streamed.test_accuracy),
            2.0,
        )
    ]


def _stream(one: Streamed) -> dict[str, object]:
    return {
        "stream": one.stream.title,
        "step": one.step,
        "streamed": _plain(one.streamed),
        "at_once": _plain(one.at_once),
        "retrained": _plain(one.retrained),
    }


def _plain(line: Measured) -> dict[str, object]:
    named: dict[str, float | str] = asdict(line)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in named.items()
    }
