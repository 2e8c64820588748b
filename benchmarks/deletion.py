"""What a deletion costs: our update, the released algorithm, a retrain; and what each reaches.

    python -m benchmarks.deletion --data FOLDER

LeNet-5 on CIFAR-10, 45,000 training rows, plain training (no gradient restriction, so that a
retrain is at its cheapest), 1, 45, 450 and 2,250 forgotten rows, all in one run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.progress import Progress
from torch import nn

from benchmarks import cifar, results
from benchmarks.cifar import Cifar
from unlearning import methods, verification
from unlearning.anchored import anchor as anchors
from unlearning.anchored import preparation
from unlearning.anchored.anchor import Anchor
from unlearning.core import objective, options, training
from unlearning.core.examples import Examples
from unlearning.methods import Context
from unlearning.verification import ModelScores

SIZES = (1, 45, 450, 2250)
LARGEST = SIZES[-1]
CHAIN_BATCHES = 10
CHAIN_SHARE = 0.01


@dataclass(frozen=True)
class Measured:
    """One method on one number of forgotten rows."""

    forgotten: int
    method: str
    seconds: float
    test_accuracy: float
    forget_accuracy: float
    auc: float
    auc_low: float
    auc_high: float


@dataclass(frozen=True)
class Bench:
    """The trained model and everything that is measured against it."""

    data: Cifar
    recipe: training.Recipe
    model: nn.Module
    anchor: Anchor

    def sets(self, count: int) -> tuple[Examples, Examples]:
        """(forget, retain): the first ``count`` training rows of a fixed random order."""
        order = torch.randperm(len(self.data.train), generator=torch.Generator().manual_seed(count))
        train = self.data.train
        return train.subset(order[:count]), train.subset(order[count:].sort().values)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CIFAR-10 folder")
    parser.add_argument("--epochs", type=int, default=15, help="of every training")
    parser.add_argument("--repeats", type=int, default=7, help="runs whose median is quoted")
    parser.add_argument(
        "--references", type=int, default=3, help="retrained models at the largest number"
    )
    asked = parser.parse_args()
    data = cifar.load(asked.data)
    recipe = training.Recipe(
        learning_rate=1e-3, batch_size=128, epochs=asked.epochs, patience=asked.epochs, alpha=0.0
    )
    with Progress(console=results.console) as bar:
        task = bar.add_task("Training the base model", total=4 + len(SIZES) + asked.references)
        began = time.perf_counter()
        model = _train(data.train, data, recipe, seed=0)
        train_seconds = time.perf_counter() - began
        bar.update(task, advance=1, description="Preparing the anchor")
        began = time.perf_counter()
        anchor = preparation.prepare(
            model, data.train, data.validation, generator=torch.Generator().manual_seed(0)
        )
        prepare_seconds = time.perf_counter() - began
        bench = Bench(data, recipe, model, anchor)
        lines = []
        for count in SIZES:
            bar.update(task, advance=1, description=f"Forgetting {count} rows")
            references = asked.references if count == LARGEST else 1
            lines += _measure(bench, count, asked.repeats, references, lambda: bar.advance(task))
        bar.update(task, description="Cached against full retain pass")
        cached, full, difference = _retain_gradient(bench, 45, asked.repeats)
        bar.update(task, advance=1, description="Ten batches in a row")
        chain, single = _chain(bench)
    _report(bench, lines, train_seconds, prepare_seconds, (cached, full, difference), chain, single)


def _train(rows: Examples, data: Cifar, recipe: training.Recipe, *, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = cifar.lenet5(seed)
    return training.fit(model, rows, data.validation, recipe=recipe, generator=generator).model


def _measure(
    bench: Bench, count: int, repeats: int, references: int, advance: object
) -> list[Measured]:
    """Base, ours, released and retrained on the same forgotten rows."""
    forget, retain = bench.sets(count)
    found = [_line(bench, "base", count, 0.0, [bench.model], forget)]
    for name, given, times in (
        ("iau", {}, repeats),
        ("adam1", {"step": "adam1"}, max(1, repeats // 3)),
    ):
        seconds, update = results.median_seconds(
            partial(_unlearn, bench, forget, retain, given), repeats=times
        )
        found.append(_line(bench, name, count, seconds, [update.model], forget))
    taken, retrained = [], []
    for seed in range(references):
        began = time.perf_counter()
        retrained.append(_train(retain, bench.data, bench.recipe, seed=100 + seed))
        taken.append(time.perf_counter() - began)
        if callable(advance):
            advance()
    found.append(_line(bench, "retrain", count, statistics.median(taken), retrained, forget))
    return found


def _unlearn(
    bench: Bench,
    forget: Examples,
    retain: Examples,
    given: dict[str, str],
    *,
    forgotten: anchors.Forgotten | None = None,
) -> methods.Update:
    method = methods.get("iau")
    return method.unlearn(
        bench.model,
        forget,
        retain,
        options=options.parse(method.options, given),
        context=Context(
            calibration=bench.data.validation, anchor=bench.anchor, forgotten=forgotten
        ),
        generator=torch.Generator().manual_seed(0),
    )


def _retain_gradient(bench: Bench, count: int, repeats: int) -> tuple[float, float, float]:
    """Seconds of the retain gradient from the cached sum, by a full pass; relative difference."""
    forget, retain = bench.sets(count)
    cached, ours = results.median_seconds(
        lambda: bench.anchor.gradient_sum - objective.summed_gradient(bench.model, forget),
        repeats=repeats,
    )
    full, direct = results.median_seconds(
        lambda: objective.summed_gradient(bench.model, retain), repeats=max(1, repeats // 3)
    )
    return cached, full, float((ours - direct).norm() / direct.norm())


def _chain(bench: Bench) -> tuple[Measured, Measured]:
    """Ten batches of 1 % one after the other, the rows of each erased, against 10 % at once."""
    size = int(CHAIN_SHARE * len(bench.data.train))
    forget, retain = bench.sets(CHAIN_BATCHES * size)
    forgotten, update = None, None
    for batch in range(CHAIN_BATCHES):
        rows = forget.subset(torch.arange(batch * size, (batch + 1) * size))
        update = _unlearn(bench, rows, retain, {}, forgotten=forgotten)
        forgotten = update.forgotten
    assert update is not None
    at_once = _unlearn(bench, forget, retain, {})
    count = CHAIN_BATCHES * size
    return (
        _line(bench, "ten batches", count, 0.0, [update.model], forget),
        _line(bench, "one batch", count, 0.0, [at_once.model], forget),
    )


def _line(
    bench: Bench,
    method: str,
    count: int,
    seconds: float,
    models: Sequence[nn.Module],
    forget: Examples,
) -> Measured:
    """Accuracies and membership AUC, averaged over the models."""
    control = _scores(bench, bench.model, forget)
    tests, hits, aucs = [], [], []
    for model in models:
        scores = _scores(bench, model, forget)
        tests.append(float(scores.audit.correct.mean()))
        hits.append(float(scores.forget.correct.mean()))
        aucs.append(_auc(scores, control))
    mean = [statistics.mean(values) for values in zip(*aucs, strict=True)]
    return Measured(count, method, seconds, statistics.mean(tests), statistics.mean(hits), *mean)


def _scores(bench: Bench, model: nn.Module, forget: Examples) -> ModelScores:
    return ModelScores(
        forget=verification.score(model, forget),
        audit=verification.score(model, bench.data.test),
    )


def _auc(scores: ModelScores, control: ModelScores) -> tuple[float, float, float]:
    """AUC of the loss-threshold attack against never-seen rows of the same classes, with 95 %."""
    found = verification.verify(
        scores,
        control,
        changed=True,
        lineage_clean=True,
        criteria=verification.Criteria(least_rows=10),
    )
    named = [m for m in found.metrics if m.name == "membership_auc"]
    if not named:  # too few rows for the metric to be worth anything
        return float("nan"), float("nan"), float("nan")
    estimate = named[0].unlearned
    return (estimate.value, *estimate.interval(0.95))


def _report(
    bench: Bench,
    lines: Sequence[Measured],
    train_seconds: float,
    prepare_seconds: float,
    retain_pass: tuple[float, float, float],
    chain: Measured,
    single: Measured,
) -> None:
    columns = ("rows", "method", "seconds", "test", "forget", "AUC", "low", "high")
    results.show(
        "Forgetting on CIFAR-10 with LeNet-5",
        columns,
        [tuple(asdict(line).values()) for line in (*lines, chain, single)],
    )
    cached, full, difference = retain_pass
    results.console.print(
        f"Training {train_seconds:.1f} s, preparing the anchor {prepare_seconds:.1f} s "
        f"({prepare_seconds / train_seconds:.0%} of it). Retain gradient of 45 rows: cached "
        f"{cached * 1000:.2f} ms, full pass {full:.2f} s, relative difference {difference:.1e}."
    )
    results.write(
        "deletion",
        {
            "lines": [_plain(line) for line in (*lines, chain, single)],
            "train_seconds": train_seconds,
            "prepare_seconds": prepare_seconds,
            "retain_gradient": {"cached": cached, "full": full, "difference": difference},
        },
        _targets(lines, retain_pass, chain, single),
    )


def _plain(line: Measured) -> dict[str, object]:
    return {k: None if v != v else v for k, v in asdict(line).items()}


def _targets(
    lines: Sequence[Measured],
    retain_pass: tuple[float, float, float],
    chain: Measured,
    single: Measured,
) -> list[results.Target]:
    by = {(line.forgotten, line.method): line for line in lines}
    bounds = {1: 1000.0, 45: 1000.0, 450: 300.0, LARGEST: 100.0}
    targets = [
        results.at_least(
            f"retrain / update seconds, {count} rows",
            by[count, "retrain"].seconds / by[count, "iau"].seconds,
            bound,
        )
        for count, bound in bounds.items()
    ]
    cached, full, _ = retain_pass
    base, ours, gold = (by[LARGEST, name] for name in ("base", "iau", "retrain"))
    closed = 1 - abs(ours.auc - gold.auc) / abs(base.auc - gold.auc)
    return [
        *targets,
        results.at_least("full / cached retain gradient seconds, 45 rows", full / cached, 500.0),
        results.at_most("AUC distance to retrained, 2,250 rows", abs(ours.auc - gold.auc), 0.015),
        results.at_least("share of the AUC gap closed, 2,250 rows", closed, 0.75),
        results.at_most(
            "test accuracy under the base's in points, 2,250 rows",
            100 * (base.test_accuracy - ours.test_accuracy),
            0.5,
        ),
        results.at_most(
            "ten batches of 1 % against one of 10 %: AUC", abs(chain.auc - single.auc), 0.01
        ),
        results.at_most(
            "ten batches of 1 % against one of 10 %: test accuracy in points",
            100 * abs(chain.test_accuracy - single.test_accuracy),
            0.5,
        ),
    ]


if __name__ == "__main__":
    main()
