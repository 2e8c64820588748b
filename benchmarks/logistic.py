"""Deletions from a logistic head, against finding its minimum from zero: passes and distances.

A *pass* computes the slope once, which reads every retained row. Seconds are those of the
processor, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks import results
from unlearning import architectures, methods
from unlearning.architectures import LogisticClassifier, Transform
from unlearning.core.examples import Examples
from unlearning.heads import logistic, multinomial
from unlearning.heads.multinomial import Slope
from unlearning.heads.quasi_newton import Found
from unlearning.heads.statistics import Statistics
from unlearning.methods import Context, Update

T = TypeVar("T")

#: Rows deleted at once, and by what factor a search from zero must take more passes.
SIZES = {1: 15.0, 40: 15.0, 1000: None}
PENALTY = 1.0


def head(features: int, classes: int) -> LogisticClassifier:
    """A logistic head that is not fitted."""
    sizes = {"inputs": features, "classes": classes, "penalty": PENALTY}
    made = architectures.classifier("logistic", sizes, Transform())
    assert isinstance(made, LogisticClassifier)
    return made


def measure(rows: Examples, features: int, classes: int) -> tuple[dict[str, Any], list[Any]]:
    """The passes, seconds and distances of deletions of each size."""
    fitted = head(features, classes)
    whole = rows.subset(torch.arange(len(rows)))
    seconds, found = _timed(lambda: fitted.fit_to_minimum(whole, whole.subset(torch.arange(1000))))
    deletions = [_deletion(rows, fitted, found, count) for count in SIZES]
    measured = {
        "rows": len(rows),
        "features": features + 1,
        "classes": classes,
        "penalty": PENALTY,
        "fit": seconds,
        "deletions": deletions,
    }
    targets = [
        results.at_least(f"passes from zero / deletion of {one['rows']} rows", one["ratio"], bound)
        for one in deletions
        if (bound := SIZES[one["rows"]]) is not None
    ]
    targets += [
        results.at_most(
            f"distance / bound, {one['rows']} rows", one["distance"] / one["both_bounds"], 1.0
        )
        for one in deletions
    ]
    return measured, targets


def _deletion(
    rows: Examples, fitted: LogisticClassifier, found: Statistics, count: int
) -> dict[str, Any]:
    gone = torch.randperm(len(rows), generator=torch.Generator().manual_seed(count))[:count]
    left = torch.ones(len(rows), dtype=torch.bool)
    left[gone] = False
    retain = rows.subset(left.nonzero()[:, 0])
    seconds, update = _timed(lambda: _newton(fitted, found, rows.subset(gone), retain))
    assert update.statistics is not None
    assert update.certificate is not None
    after = update.statistics
    searched, zero = _timed(lambda: _from_zero(fitted, after, retain))
    weights: Tensor = update.model.get_parameter("network.weight").detach().T
    bound = update.certificate["distance_bound"]
    other = multinomial.distance_bound(zero.slope.norm, zero.slope.rounding, PENALTY)
    return {
        "rows": count,
        "passes": update.notes["passes"],
        "passes_from_zero": zero.passes,
        "ratio": zero.passes / update.notes["passes"],
        "seconds": seconds,
        "seconds_from_zero": searched,
        "gradient_norm": update.certificate["gradient_norm"],
        "bound": bound,
        "both_bounds": bound + other,
        "distance": float((weights - zero.weights).norm()),
    }


def _timed(run: Callable[[], T]) -> tuple[float, T]:
    """Run once; many passes make up for a slow first one."""
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def _newton(
    fitted: LogisticClassifier, found: Statistics, forget: Examples, retain: Examples
) -> Update:
    method = methods.get("newton")
    return method.unlearn(
        fitted,
        forget,
        retain,
        options=method.options(),
        context=Context(statistics=found),
        generator=torch.Generator(),
    )


@torch.no_grad()
def _from_zero(fitted: LogisticClassifier, found: Statistics, retain: Examples) -> Found[Slope]:
    posed = fitted.problem(found, retain)
    start = torch.zeros(len(found.gram), len(posed.offset), dtype=torch.float64)
    return logistic.minimum(posed, start, logistic.by_bound(found.gram, posed))
