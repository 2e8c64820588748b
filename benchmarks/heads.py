"""A deletion from a head that is fitted to its minimum, against fitting it again.

Seconds are those of the processor, on one thread, so that other work on the machine counts little.

make bench-heads                             # 1,000,000 rows of 385 features, 77 classes, and
                                             # 25,000 rows of 257 features, 10 classes: some minutes
make bench-heads OPTIONS='--only logistic'   # the second alone
make bench-heads OPTIONS=--quick             # 50,000 and 2,000 rows; prints, and writes no result
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import logistic, results
from unlearning import architectures, methods
from unlearning.architectures import RidgeClassifier, Transform
from unlearning.core.examples import Examples
from unlearning.heads.statistics import Statistics
from unlearning.methods import Context

#: Rows deleted at once, and by what factor a fit must take longer.
SIZES = {1: 500.0, 40: None, 1000: 200.0}
PENALTY = 0.1
#: Rows deleted at random, in batches, before the bits are compared with those of a fit.
WANDERED = 10_000


@dataclass(frozen=True)
class Problem:
    """Rows, and the sizes of the head."""

    rows: Examples
    features: int
    classes: int

    @classmethod
    def drawn(cls, rows: int, *, features: int, classes: int) -> Problem:
        """Rows of norm 1 around a mean for each class."""
        generator = torch.Generator().manual_seed(1)
        y = torch.randint(0, classes, (rows,), generator=generator)
        x = torch.randn(classes, features, generator=generator)[y]
        for piece in torch.split(x, 1 << 16):
            piece += 2 * torch.randn(piece.shape, generator=generator)
            piece /= piece.norm(dim=1, keepdim=True)
        return cls(Examples(x, y), features, classes)

    def head(self) -> RidgeClassifier:
        """A head that is not fitted."""
        sizes = {"inputs": self.features, "classes": self.classes, "penalty": PENALTY}
        made = architectures.classifier("ridge", sizes, Transform())
        assert isinstance(made, RidgeClassifier)
        return made

    def fit(self, retain: Examples) -> tuple[RidgeClassifier, Statistics]:
        """Fit on rows; the temperature, which the bits do not depend on, on a thousand."""
        head = self.head()
        few = retain.subset(torch.arange(min(1000, len(retain))))
        return head, head.fit_to_minimum(retain, few)


def main() -> None:
    """Measure and print; write the result unless it is a quick run."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python -m benchmarks.heads --quick",
    )
    parser.add_argument("--only", choices=("ridge", "logistic"), help="measure one kind of head")
    parser.add_argument("--quick", action="store_true", help="few rows; writes no result")
    asked = parser.parse_args()
    if asked.only != "logistic":
        _ridge(quick=asked.quick)
    if asked.only != "ridge":
        _logistic(quick=asked.quick)


def _ridge(*, quick: bool) -> None:
    rows = 50_000 if quick else 1_000_000
    measured, targets = measure(Problem.drawn(rows, features=384, classes=77))
    columns = ("rows deleted", "CPU seconds", "of them sums and solve", "fit / deletion")
    lines = [(d["rows"], d["seconds"], d["bare"], d["ratio"]) for d in measured["deletions"]]
    results.show(f"Deletions from {rows:,} rows; a fit: {measured['fit']:.1f} s", columns, lines)
    if not quick:
        results.write("heads", measured, targets)


def _logistic(*, quick: bool) -> None:
    rows, features = (2_000, 64) if quick else (25_000, 256)
    problem = Problem.drawn(rows, features=features, classes=10)
    measured, targets = logistic.measure(problem.rows, features, 10)
    columns = ("rows deleted", "passes", "from 0", "CPU seconds", "from 0", "distance", "bound")
    keys = ("rows", "passes", "passes_from_zero", "seconds", "seconds_from_zero")
    lines = [
        (*(d[key] for key in keys), f"{d['distance']:.1e}", f"{d['bound']:.1e}")
        for d in measured["deletions"]
    ]
    results.show(
        f"Logistic, deletions from {rows:,} rows; a fit: {measured['fit']:.1f} s", columns, lines
    )
    if not quick:
        results.write("logistic-heads", measured, targets)


def measure(problem: Problem) -> tuple[dict[str, Any], list[results.Target]]:
    """The seconds of a fit and of deletions, and whether their bits are those of a fit."""
    whole = problem.rows.subset(torch.arange(len(problem.rows)))
    fit_seconds, (head, found) = results.median_seconds(
        lambda: problem.fit(whole), repeats=1, clock=time.process_time
    )
    deletions = [_deletion(problem, head, found, count, fit_seconds) for count in SIZES]
    same = {threads: _same_bits(problem, head, found, threads) for threads in (1, 2)}
    measured = {
        "rows": len(problem.rows),
        "features": problem.features + 1,
        "classes": problem.classes,
        "fit": fit_seconds,
        "deletions": deletions,
        "same_bits_after": min(WANDERED, len(problem.rows) // 2),
        "same_bits": {str(threads): value for threads, value in same.items()},
    }
    targets = [
        results.at_least(f"fit / deletion of {one['rows']} rows", one["ratio"], bound)
        for one in deletions
        if (bound := SIZES[one["rows"]]) is not None
    ]
    targets += [
        results.at_least(f"bits of a fit, {threads} threads", float(value), 1.0)
        for threads, value in same.items()
    ]
    return measured, targets


def _deletion(
    problem: Problem, head: RidgeClassifier, found: Statistics, count: int, fit_seconds: float
) -> dict[str, Any]:
    """Time the whole method, with its certificate, and its sums and solution alone."""
    gone = torch.randperm(len(problem.rows), generator=torch.Generator().manual_seed(count))[:count]
    forget, retain = _split(problem, gone)
    seconds, _ = results.median_seconds(
        lambda: _downdate(head, found, forget, retain), repeats=5, clock=time.process_time
    )
    bare, _ = results.median_seconds(
        lambda: head.refitted(head.without_rows(found, forget)), repeats=5, clock=time.process_time
    )
    return {"rows": count, "seconds": seconds, "bare": bare, "ratio": fit_seconds / seconds}


def _same_bits(problem: Problem, head: RidgeClassifier, found: Statistics, threads: int) -> bool:
    """Delete rows in batches of random sizes; compare sums and weights with those of a fit."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(threads)
        rows = min(WANDERED, len(problem.rows) // 2)
        gone = torch.randperm(len(problem.rows), generator=generator)[:rows]
        done = 0
        while done < rows:
            count = int(torch.randint(1, 1000, (), generator=generator))
            forget, _ = _split(problem, gone[done : done + count])
            found = head.without_rows(found, forget)
            done += count
        weights = head.refitted(found).network.weight
    finally:
        torch.set_num_threads(before)
    again, fresh = problem.fit(_split(problem, gone)[1])
    return found.digest() == fresh.digest() and torch.equal(weights, again.network.weight)


def _downdate(
    head: RidgeClassifier, found: Statistics, forget: Examples, retain: Examples
) -> methods.Update:
    method = methods.get("downdate")
    return method.unlearn(
        head,
        forget,
        retain,
        options=method.options(),
        context=Context(statistics=found),
        generator=torch.Generator(),
    )


def _split(problem: Problem, gone: Tensor) -> tuple[Examples, Examples]:
    left = torch.ones(len(problem.rows), dtype=torch.bool)
    left[gone] = False
    return problem.rows.subset(gone), problem.rows.subset(left.nonzero()[:, 0])


if __name__ == "__main__":
    main()
