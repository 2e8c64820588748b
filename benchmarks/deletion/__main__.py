"""Run the benchmark from the command line."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import Progress
from torch import nn

import benchmarks.deletion
from benchmarks import cifar, results
from benchmarks.cifar import Cifar
from benchmarks.deletion import report, streams, table
from benchmarks.deletion.bench import Bench, Measured, retain_gradient
from benchmarks.deletion.streams import Stream
from unlearning.anchored import margins, preparation, targets
from unlearning.anchored.margins import Splits
from unlearning.core import training
from unlearning.core.examples import Examples

T = TypeVar("T")

SIZES = (1, 45, 450, 2250)
LARGEST = SIZES[-1]
STEPS = ("matched", "calibrated", "adam1")
STREAMS = (Stream(10, 0.01), Stream(40, 0.005))
TABLE = Stream(40, 0.005)


def main() -> None:
    """Run the benchmark from the command line."""
    words = (benchmarks.deletion.__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CIFAR-10 folder")
    parser.add_argument("--epochs", type=int, default=15, help="of every training")
    parser.add_argument("--repeats", type=int, default=7, help="runs whose median is quoted")
    parser.add_argument("--references", type=int, default=3, help="retrained models")
    parser.add_argument("--only-table", action="store_true", help="the table alone, on the screen")
    asked = parser.parse_args()
    if asked.only_table:
        report.show_streams(_table(asked.references))
        return
    data = cifar.load(asked.data)
    recipe = training.Recipe(
        learning_rate=1e-3, batch_size=128, epochs=asked.epochs, patience=asked.epochs, alpha=0.0
    )
    trainings = len(SIZES) - 1 + asked.references * (1 + len(STREAMS))
    with Progress(console=results.console) as bar:
        task = bar.add_task("Training the base model", total=5 + len(SIZES) + trainings)
        train = partial(_train, data, recipe)
        seconds: dict[str, float] = {}
        model = _timed(seconds, "training", lambda: train(data.train, 0))
        bar.update(task, advance=1, description="Out-of-fold margins, one split")
        out = _timed(
            seconds,
            "margins",
            lambda: margins.prepare(
                cifar.lenet5,
                data.train,
                data.validation,
                trainer=margins.by_recipe(recipe, data.validation),
                options=Splits(1, 2),
                seed=1,
            ),
        )
        bar.update(task, advance=1, description="Preparing the anchor")
        anchor = _timed(
            seconds,
            "anchor",
            lambda: preparation.prepare(
                model, data.train, data.validation, generator=torch.Generator().manual_seed(0)
            ),
        )
        found = targets.fit(
            out,
            own=margins.of_examples(model, data.train),
            held_out=margins.of_examples(model, data.validation),
        )
        bench = Bench(data.train, data.validation, data.test, train, model, anchor, found)
        lines = []
        for count in SIZES:
            bar.update(task, advance=1, description=f"Forgetting {count} rows")
            references = asked.references if count == LARGEST else 1
            lines += _measure(bench, count, asked.repeats, references, lambda: bar.advance(task))
        bar.update(task, description="Cached against full retain pass")
        retained = _retain_pass(bench, 45, asked.repeats)
        streamed = []
        for stream in STREAMS:
            bar.update(task, advance=1, description=stream.title)
            retrained = _retrained(bench, streams.rows_of(bench, stream), asked.references)
            bar.advance(task, asked.references)
            streamed += streams.run(bench, stream, STEPS[:2], retrained)
        bar.update(task, advance=1, description="The table")
        by_heart = _table(asked.references)
    report.write(lines, LARGEST, seconds, retained, streamed, by_heart)


def _train(data: Cifar, recipe: training.Recipe, rows: Examples, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = cifar.lenet5(seed)
    return training.fit(model, rows, data.validation, recipe=recipe, generator=generator).model


def _timed(seconds: dict[str, float], name: str, run: Callable[[], T]) -> T:
    began = time.perf_counter()
    made = run()
    seconds[name] = time.perf_counter() - began
    return made


def _measure(
    bench: Bench, count: int, repeats: int, references: int, advance: Callable[[], None]
) -> list[Measured]:
    """Base, each step, and retrained models on the same forgotten rows."""
    rows = bench.chosen(count)
    updates = {
        step: results.median_seconds(
            partial(bench.unlearn, rows, step),
            repeats=max(1, repeats // 3) if step == "adam1" else repeats,
        )
        for step in STEPS
    }
    taken, retrained = [], []
    for seed in range(references):
        began = time.perf_counter()
        retrained.append(bench.train(bench.without(rows), 100 + seed))
        taken.append(time.perf_counter() - began)
        advance()
    return [
        bench.line("base", rows, 0.0, [bench.model], retrained),
        *(
            bench.line(step, rows, seconds, [update.model], retrained)
            for step, (seconds, update) in updates.items()
        ),
        bench.line("retrain", rows, statistics.median(taken), retrained, retrained),
    ]


def _retrained(bench: Bench, rows: torch.Tensor, count: int) -> list[nn.Module]:
    return [bench.train(bench.without(rows), 200 + seed) for seed in range(count)]


def _retain_pass(bench: Bench, count: int, repeats: int) -> report.RetainPass:
    """Time the retained rows' gradient from the cached sum and by a full pass."""
    from_cache, by_pass = retain_gradient(bench, count)
    cached, ours = results.median_seconds(from_cache, repeats=repeats)
    full, direct = results.median_seconds(by_pass, repeats=max(1, repeats // 3))
    return report.RetainPass(cached, full, float((ours - direct).norm() / direct.norm()))


def _table(references: int) -> list[streams.Streamed]:
    bench = table.bench()
    retrained = _retrained(bench, streams.rows_of(bench, TABLE), references)
    return streams.run(bench, TABLE, ("matched",), retrained)


if __name__ == "__main__":
    main()
