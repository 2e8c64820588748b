"""What was to be reached, and whether it was; none is left out because its number is missing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.methods import table
from benchmarks.methods.findings import Findings
from benchmarks.methods.settings import DEFAULT
from benchmarks.methods.table import Measured

#: What the default method must reach.
AUC_DISTANCE, FORGET_POINTS, TEST_POINTS, RESTRICTED_EPOCH = 0.015, 2.0, 0.5, 2.1
#: Seconds for all of it, and for the small form.
WHOLE_SECONDS, QUICK_SECONDS = 3600, 300


@dataclass(frozen=True)
class Target:
    """A number that was to be at most ``bound``; None where there is no such number."""

    name: str
    value: float | None
    bound: float | None
    met: bool
    #: Why it is not met whatever the value; None where the numbers say all.
    reason: str | None


def judge(found: Findings) -> list[Target]:
    """Every target, the default method's first."""
    return [
        _rank(found),
        *_of_the_default(found),
        _at_most(
            "restricted / plain epoch, two-pass form", found.restriction.ratio, RESTRICTED_EPOCH
        ),
        _whole(found),
    ]


def _rank(found: Findings) -> Target:
    ours, objection = _default(found)
    others = [line.ranks.average for line in found.lines if line is not ours]
    value = ours.ranks.average if ours else None
    bound = min(others, default=None)
    if ours and found.pending:
        # A method that comes later may be better, and moves every rank.
        value, bound, objection = None, None, f"{_unrun(found)}, so no rank is final"
    elif ours and bound is None:
        objection = "no other method gave a model"
    return _at_most(f"{DEFAULT}: average rank, against the best other", value, bound, objection)


def _of_the_default(found: Findings) -> list[Target]:
    ours, objection = _default(found)
    auc = forget = test = None
    if ours:
        auc = ours.numbers.auc_distance
        forget = 100 * ours.numbers.forget_distance
        test = 100 * (found.base.test - ours.numbers.test)
    return [
        _at_most(f"{DEFAULT}: AUC distance to retrained", auc, AUC_DISTANCE, objection),
        _at_most(
            f"{DEFAULT}: forget accuracy from retrained, points", forget, FORGET_POINTS, objection
        ),
        _at_most(
            f"{DEFAULT}: test accuracy under the base's, points", test, TEST_POINTS, objection
        ),
    ]


def _whole(found: Findings) -> Target:
    """Processor seconds: other work does not add to them, and two cores need no longer."""
    bound = QUICK_SECONDS if found.settings.quick else WHOLE_SECONDS
    name = "whole benchmark, processor seconds"
    if found.pending:
        return _at_most(name, None, bound, _unrun(found))
    return _at_most(name, found.total().cpu_seconds, bound)


def _default(found: Findings) -> tuple[Measured | None, str | None]:
    """The default's line, and what stands against taking its numbers for the service's."""
    ours = table.default(found.lines)
    if ours is not None:
        because = "; ".join(ours.run.retrain_because)
        # The service would not stop at this update.
        return ours, f"the update asks for a retraining: {because}" if because else None
    for line in found.refused:
        if table.is_default(line):
            return None, f"{DEFAULT} gave no model: {line.run.refused}"
    return None, f"{DEFAULT} has not been run"


def _unrun(found: Findings) -> str:
    count = len(found.pending)
    return f"{count} run{'s' if count > 1 else ''} missing"


def _at_most(
    name: str, value: float | None, bound: float | None, objection: str | None = None
) -> Target:
    if value is not None and not math.isfinite(value):
        value, objection = None, "the number is not finite"
    met = objection is None and value is not None and bound is not None and value <= bound
    return Target(name, value, bound, met, objection)
