"""Run the benchmark from the command line."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

import benchmarks.deletion
from benchmarks import parts, results
from benchmarks.deletion import report, streams, table
from benchmarks.deletion.bench import Bench, Measured, retain_gradient
from benchmarks.deletion.prepared import Prepared
from benchmarks.deletion.streams import Stream
from benchmarks.parts import Found, Part
from benchmarks.progress import Tell

SIZES = (1, 45, 450, 2250)
LARGEST = SIZES[-1]
STEPS = ("matched", "calibrated", "adam1")
STREAMS = {"stream-10": Stream(10, 0.01), "stream-40": Stream(40, 0.005)}
TABLE = Stream(40, 0.005)
#: In the order in which they are measured.
NAMES = ("prepare", *(f"rows-{count}" for count in SIZES), "retain-gradient", *STREAMS, "table")

_EXAMPLES = """examples:
  python -m benchmarks.deletion --data FOLDER
  python -m benchmarks.deletion --resume               # go on with a run that was cut short
  python -m benchmarks.deletion --only table           # one part, put into the result
"""


def main() -> None:
    """Run the benchmark from the command line."""
    words = (benchmarks.deletion.__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(
        description=words, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CIFAR-10 folder")
    parser.add_argument("--epochs", type=int, default=15, help="of every training")
    parser.add_argument("--repeats", type=int, default=7, help="runs whose median is quoted")
    parser.add_argument("--references", type=int, default=3, help="retrained models")
    parts.add_options(parser, NAMES)
    asked = parser.parse_args()
    prepared = Prepared.on_cifar(asked.data, asked.epochs, resume=asked.resume)
    found = parts.measure(
        "deletion",
        all_parts(prepared, repeats=asked.repeats, references=asked.references),
        only=asked.only,
        resume=asked.resume,
        options={"epochs": asked.epochs, "repeats": asked.repeats, "references": asked.references},
    )
    report.show(found)


def all_parts(prepared: Prepared, *, repeats: int, references: int) -> list[Part]:
    """Return the parts, with about how many trainings each takes."""
    measures = {
        "prepare": (partial(_prepare, prepared), 2.2),
        **{
            f"rows-{count}": (
                partial(_rows, prepared, count, repeats, references if count == LARGEST else 1),
                (references if count == LARGEST else 1) + 0.3,
            )
            for count in SIZES
        },
        "retain-gradient": (partial(_retain_gradient, prepared, 45, repeats), 0.2),
        **{
            name: (partial(_stream, prepared, name, references), references + 0.5)
            for name in STREAMS
        },
        "table": (partial(_table, references), 1.0),
    }
    return [Part(name, *measures[name]) for name in NAMES]


def _prepare(prepared: Prepared, tell: Tell) -> Found:
    seconds = prepared.anew(tell)
    return {"took": seconds}, report.of_preparation(seconds)


def _rows(prepared: Prepared, count: int, repeats: int, references: int, tell: Tell) -> Found:
    """Base, each step, and retrained models on the same forgotten rows."""
    bench = prepared.bench(tell)
    rows = bench.chosen(count)
    retrained, taken = prepared.retrained(f"rows-{count}", bench.without(rows), references, tell)
    updates = {}
    for step in STEPS:
        tell(1.0, f"updates by {step}")
        updates[step] = results.median_seconds(
            partial(bench.unlearn, rows, step),
            repeats=max(1, repeats // 3) if step == "adam1" else repeats,
        )
    tell(1.0, "comparing")
    lines = [
        bench.line("base", rows, 0.0, [bench.model], retrained),
        *(
            bench.line(step, rows, seconds, [update.model], retrained)
            for step, (seconds, update) in updates.items()
        ),
        bench.line("retrain", rows, statistics.median(taken), retrained, retrained),
    ]
    return {"lines": [report.plain(one) for one in lines]}, _targets(lines, count)


def _targets(lines: Sequence[Measured], count: int) -> list[results.Target]:
    return [*report.of_seconds(lines), *(report.of_removal(lines) if count == LARGEST else [])]


def _retain_gradient(prepared: Prepared, count: int, repeats: int, tell: Tell) -> Found:
    """Time the retained rows' gradient from the cached sum and by a full pass."""
    from_cache, by_pass = retain_gradient(prepared.bench(tell), count)
    cached, ours = results.median_seconds(from_cache, repeats=repeats)
    full, direct = results.median_seconds(by_pass, repeats=max(1, repeats // 3))
    difference = float((ours - direct).norm() / direct.norm())
    measured = {"rows": count, "cached": cached, "full": full, "difference": difference}
    return measured, report.of_gradient(measured)


def _stream(prepared: Prepared, name: str, references: int, tell: Tell) -> Found:
    bench, stream = prepared.bench(tell), STREAMS[name]
    rows = streams.rows_of(bench, stream)
    retrained, _ = prepared.retrained(name, bench.without(rows), references, tell)
    found = streams.run(bench, stream, STEPS[:2], retrained, tell)
    targets = [target for one in found for target in report.of_stream(one)]
    return {"streams": [report.of_streamed(one) for one in found]}, targets


def _table(references: int, tell: Tell) -> Found:
    tell(0.0, "a network that learns the table, and its margins")
    bench: Bench = table.bench()
    rows = streams.rows_of(bench, TABLE)
    retrained: list[nn.Module] = []
    for seed in range(200, 200 + references):
        tell(0.3, f"retraining, {len(retrained) + 1} of {references}")
        retrained.append(bench.train(bench.without(rows), seed))
    found = streams.run(bench, TABLE, ("matched",), retrained, tell)
    targets = [target for one in found for target in report.of_table(one)]
    return {"streams": [report.of_streamed(one) for one in found]}, targets


if __name__ == "__main__":
    main()
