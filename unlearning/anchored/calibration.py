"""Search the strength of a step: until a target is met, and only while a guard holds.

It works for any method that gives a model for each strength, so that no learning rate needs to be
chosen. Strength 0 is the model before the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from unlearning.anchored import margins
from unlearning.anchored.guard import Look
from unlearning.core import objective
from unlearning.core.examples import Examples

#: ``reached``: the target is met; ``guarded``: the guard made the step shorter;
#: ``unreachable``: no strength up to the ceiling met the target; ``given``: not searched.
Status = Literal["reached", "guarded", "unreachable", "given"]

#: How far below its target a row's margin counts.
_FARTHEST_BELOW = 3.0
#: Mean distance of margins from their targets that is no memory worth a step.
_SMALLEST_FALL = 0.1

#: The family of models: strength → model. It may return the same module every time.
Apply = Callable[[float], nn.Module]


@dataclass(frozen=True)
class Goal:
    """What the step must reach: ``measure(model)`` grows with the strength up to ``target``.

    A continuous measure is done within ``tolerance`` of the target. For a measure that changes in
    jumps ``tolerance`` is None: then the smallest strength that reaches the target is found to a
    tenth of itself.
    """

    measure: Callable[[nn.Module], float]
    base: float
    target: float
    tolerance: float | None


@dataclass(frozen=True)
class Strength:
    """The strength found, what it reaches, and the cost of finding it."""

    value: float
    reached: float | None
    target: float | None
    status: Status
    passes: int
    #: Mean loss rise on the guard's rows at this strength; None without a guard.
    guard_rise: float | None = None
    guard_rows: int = 0
    #: Drop of the accuracy on them; None for a guard that does not look at it.
    guard_drop: float | None = None


def loss_goal(
    model: nn.Module,
    forget: Examples,
    *,
    gap: float,
    tolerance: float = 0.04,
    rows: int = 1024,
    generator: torch.Generator,
) -> Goal:
    """Return the goal for records as if never seen: mean loss raised by the generalisation gap.

    The target is L_F(θ₀) + gap with gap = L_validation − L_train of the model that saw them. The
    plain validation loss would be too low for hard records and too high for easy ones.
    ``tolerance`` is relative to the gap. At most ``rows`` rows are used.
    """
    sample = forget.sample(rows, generator=generator)
    base = float(objective.losses(model, sample).double().mean())
    return Goal(
        measure=lambda moved: float(objective.losses(moved, sample).double().mean()),
        base=base,
        target=base + gap,
        tolerance=tolerance * gap,
    )


def margin_goal(
    model: nn.Module,
    forget: Examples,
    *,
    targets: Tensor,
    tolerance: float = 0.04,
    rows: int = 1024,
    generator: torch.Generator,
) -> Goal | None:
    """Return the goal of rows with targets of their own: their mean margin falls to the targets'.

    ``targets`` (n,) float64 are margins of models that never saw the rows
    (``unlearning.anchored.targets``); a row without a finite one is left out. A row far below its
    target counts as 3 below it, so that it cannot stand for rows that are still remembered.
    ``tolerance`` is relative to the distance. None if no row has a target, or if the rows lie at
    their targets already. At most ``rows`` rows are used.
    """
    known = targets.isfinite().nonzero()[:, 0]
    known = known[torch.randperm(len(known), generator=generator)[:rows]].sort().values
    if not len(known):
        return None
    sample, aimed = forget.subset(known), targets[known]

    def fallen(moved: nn.Module) -> float:
        found = margins.of_examples(moved, sample)
        return -float(torch.maximum(found, aimed - _FARTHEST_BELOW).mean())

    base, target = fallen(model), -float(aimed.mean())
    if not target - base > _SMALLEST_FALL:
        return None
    return Goal(fallen, base=base, target=target, tolerance=tolerance * (target - base))


def class_goal(
    model: nn.Module,
    forget: Examples,
    *,
    accuracy: float = 0.01,
    rows: int = 1024,
    generator: torch.Generator,
) -> Goal:
    """Return the goal for a whole class: accuracy on its rows at most ``accuracy``."""
    sample = forget.sample(rows, generator=generator)

    def error(moved: nn.Module) -> float:
        return 1 - float(objective.correct(moved, sample).double().mean())

    return Goal(measure=error, base=error(model), target=1 - accuracy, tolerance=None)


class Guards(Protocol):
    """What a search asks of a guard."""

    def look(self, model: nn.Module) -> Look:
        """Return how far the model is worse on held-out rows, and whether that is allowed."""
        ...


class Guard:
    """Holds while the mean loss on held-out rows rises by at most ``limit`` over ``base``.

    Paired differences make it cheap: each row's rise is used, not the two means, so a small step
    has a small variance. Rows are read in growing portions until the mean rise is ``certainty``
    standard errors away from the limit, at most ``rows`` of them; the last portion decides by its
    mean.
    """

    def __init__(
        self,
        base: nn.Module,
        examples: Examples,
        *,
        limit: float,
        rows: int = 2000,
        portion: int = 128,
        certainty: float = 3.0,
    ) -> None:
        # The same rows in the same order for every check, independent of how they are stored.
        order = torch.Generator().manual_seed(0)
        self.examples = examples.subset(torch.randperm(len(examples), generator=order)[:rows])
        self.base = base
        self.limit = limit
        self.portion = portion
        self.certainty = certainty
        self._known: list[Tensor] = []

    def look(self, model: nn.Module) -> Look:
        """Return the mean loss rise, and whether it is allowed; the accuracy is not measured."""
        rise, rows = self.rise(model)
        return Look(rise, None, rows, rise <= self.limit)

    def rise(self, model: nn.Module) -> tuple[float, int]:
        """Return the mean loss rise of ``model`` and the number of rows needed to be sure of it."""
        rises = torch.zeros(0, dtype=torch.float64)
        for look in range(len(bounds := self._bounds())):
            start, stop = bounds[look]
            rows = self.examples.subset(torch.arange(start, stop))
            if look == len(self._known):
                self._known.append(objective.losses(self.base, rows).double())
            rise = objective.losses(model, rows).double() - self._known[look]
            rises = torch.cat([rises.to(rise.device), rise])
            mean = float(rises.mean())
            error = float(rises.std()) / math.sqrt(len(rises)) if len(rises) > 1 else math.inf
            if not math.isfinite(mean) or abs(mean - self.limit) > self.certainty * error:
                break
        if not len(rises):
            return 0.0, 0
        mean = float(rises.mean())
        return (mean if math.isfinite(mean) else math.inf), len(rises)

    def _bounds(self) -> list[tuple[int, int]]:
        bounds, start, size = [], 0, self.portion
        while start < len(self.examples):
            bounds.append((start, min(start + size, len(self.examples))))
            start, size = start + size, max(size, start + size)
        return bounds


def search(
    apply: Apply,
    *,
    goal: Goal,
    guard: Guards | None = None,
    start: float,
    ceiling: float = math.inf,
    passes: int = 40,
) -> Strength:
    """Find the smallest strength that meets ``goal``, reduced if ``guard`` does not hold there.

    Doubles ``start`` until the target is bracketed, then takes false positions with the Illinois
    correction (Dowell & Jarratt 1971). If a continuous measure has its maximum below the target,
    the search ends before it, as ``unreachable``.
    """
    value, reached, used = _meet(apply, goal, min(start, ceiling), ceiling, passes)
    met = reached >= goal.target - (goal.tolerance or 0.0)
    status: Status = "reached" if met else "unreachable"
    found = Strength(value, reached, goal.target, status, used)
    if guard is None:
        return found
    held = _hold(apply, found, guard)
    if held.value == found.value:
        return held
    return replace(held, reached=goal.measure(apply(held.value)), passes=used + 1)


def guarded(
    apply: Apply,
    strength: float,
    *,
    guard: Guards | None,
) -> Strength:
    """Reduce a given strength until ``guard`` holds."""
    found = Strength(strength, None, None, "given", 0)
    return found if guard is None else _hold(apply, found, guard)


def _hold(apply: Apply, found: Strength, guard: Guards) -> Strength:
    seen = guard.look(apply(found.value))
    low = high = found.value
    for _ in range(30):
        if seen.holds:
            break
        low, high = low / 2, low
        seen = guard.look(apply(low))
    else:
        # The guard holds at no strength above 0.
        return _at(replace(found, status="guarded"), 0.0, Look(0.0, 0.0, seen.rows, True))
    if low == found.value:
        return _at(found, low, seen)
    # Halving alone could discard half of the forgetting that the guard allows.
    for _ in range(3):
        middle = (low + high) / 2
        looked = guard.look(apply(middle))
        if looked.holds:
            low, seen = middle, looked
        else:
            high = middle
    return _at(replace(found, status="guarded"), low, seen)


def _at(found: Strength, value: float, seen: Look) -> Strength:
    return replace(
        found,
        value=value,
        guard_rise=seen.loss_rise,
        guard_drop=seen.accuracy_drop,
        guard_rows=seen.rows,
    )


def _meet(
    apply: Apply, goal: Goal, start: float, ceiling: float, passes: int
) -> tuple[float, float, int]:
    """Return the strength, what it reaches, and the number of forward passes."""
    if goal.base >= goal.target:
        return 0.0, goal.base, 0
    low, low_excess = 0.0, goal.base - goal.target
    high, used, summit = start, 0, math.inf
    while True:
        reached, used = _finite(goal.measure(apply(high))), used + 1
        excess = reached - goal.target
        if goal.tolerance is not None and abs(excess) <= goal.tolerance:
            return high, reached, used
        if excess >= 0:
            break
        if goal.tolerance is not None and excess < low_excess - goal.tolerance and used < passes:
            # Past a maximum: a longer step would reach less and damage the model more.
            if low > 0:
                return low, low_excess + goal.target, used
            summit, high = high, high / 2
            continue
        if high >= ceiling or 2 * high >= summit or used >= passes:
            return high, reached, used
        low, low_excess = high, excess
        high = min(2 * high, ceiling)
    return _narrow(apply, goal, (low, low_excess), (high, excess), used, passes)


def _narrow(
    apply: Apply,
    goal: Goal,
    lower: tuple[float, float],
    upper: tuple[float, float],
    used: int,
    passes: int,
) -> tuple[float, float, int]:
    (low, low_excess), (high, high_excess) = lower, upper
    reached, side = high_excess + goal.target, 0
    # ``high`` always meets the target; Illinois halves the excess of an end that stays twice.
    while used < passes and high - low > (0.1 if goal.tolerance is None else 1e-6) * high:
        middle = (low + high) / 2
        if goal.tolerance is not None:
            # An end far beyond the target (or not finite) would keep the secant at the other end.
            capped = min(high_excess, -8 * low_excess)
            middle = (low * capped - high * low_excess) / (capped - low_excess)
        value, used = _finite(goal.measure(apply(middle))), used + 1
        excess = value - goal.target
        if goal.tolerance is not None and abs(excess) <= goal.tolerance:
            return middle, value, used
        if excess >= 0:
            high, high_excess, reached = middle, excess, value
            low_excess = low_excess / 2 if side == 1 else low_excess
            side = 1
        else:
            low, low_excess = middle, excess
            high_excess = high_excess / 2 if side == -1 else high_excess
            side = -1
    return high, reached, used


def _finite(value: float) -> float:
    """Return ``value``, or infinity if it is NaN: a diverged model is past any target."""
    return value if math.isfinite(value) else math.inf
