"""The minimum of a strongly convex function by preconditioned L-BFGS, from slopes alone.

Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5, with a given approximate
inverse of the Hessian where they start from a multiple of the identity. If that inverse is exact,
this is Newton's method with the Hessian kept (the chord method), corrected by what the steps show.

Near the minimum the values of a function differ by less than their rounding while its slopes still
tell; so the line search compares slopes: along a line a convex function's slope only grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from unlearning.errors import WrongOptions

#: Pairs of steps and changes of slope that correct the given inverse.
_MEMORY = 20
#: A step is taken if the slope along it then is between these multiples of what it was.
_STEEPER, _PAST = 0.9, 0.5
#: Slopes computed for one step, at most.
_TRIES = 20


class Computed(Protocol):
    """A slope as computed at some weights."""

    @property
    def gradient(self) -> Tensor:
        """Return the slope."""

    @property
    def norm(self) -> float:
        """Return its norm."""


S = TypeVar("S", bound=Computed)


@dataclass(frozen=True)
class Found(Generic[S]):
    """Weights, the slope there, and how many slopes were computed (*passes* over the rows)."""

    weights: Tensor
    slope: S
    passes: int


def minimise(
    slope_at: Callable[[Tensor], S],
    start: Tensor,
    *,
    inverse: Callable[[Tensor], Tensor],
    reached: Callable[[S], bool],
    most_passes: int,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Found[S]:
    """Return the first weights at which ``reached`` holds for the slope.

    ``inverse`` multiplies a tensor of the weights' shape by a positive definite approximation of
    the inverse Hessian. Raise ``WrongOptions`` if ``most_passes`` slopes are not enough.
    """
    counted = _Counted(slope_at, most_passes, progress)
    weights, here = start, counted(start)
    pairs: deque[_Pair] = deque(maxlen=_MEMORY)
    while not reached(here):
        direction = -_times_inverse(pairs, inverse, here.gradient)
        step, there = _searched(counted, weights, direction, here)
        pairs.append(_Pair.of(step, there.gradient - here.gradient))
        weights, here = weights + step, there
    return Found(weights, here, counted.passes)


class _Counted(Generic[S]):
    """Computes slopes, and counts them."""

    def __init__(
        self, slope_at: Callable[[Tensor], S], most: int, progress: Callable[[float], None]
    ) -> None:
        self._slope_at, self._most, self._progress = slope_at, most, progress
        self.passes = 0

    def __call__(self, weights: Tensor) -> S:
        """Return the slope; raise ``WrongOptions`` after the last pass that is allowed."""
        if self.passes >= self._most:
            raise WrongOptions(
                f"the minimum was not found within {self._most} passes over the rows; set the "
                "architecture's penalty higher, or scale the features with the model's transform"
            )
        self.passes += 1
        self._progress(self.passes / self._most)
        return self._slope_at(weights)


@dataclass(frozen=True)
class _Pair:
    """A step and the change of the slope along it; ``scale`` is 1 / their product."""

    step: Tensor
    change: Tensor
    scale: float

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> _Pair:
        """Return the pair; a convex function's product is positive but for rounding."""
        product = float((step * change).sum())
        return cls(step, change, 1.0 / product if product > 0 else 0.0)


def _searched(
    slope_at: Callable[[Tensor], S], weights: Tensor, direction: Tensor, here: S
) -> tuple[Tensor, S]:
    """Return a step along ``direction`` and the slope after it."""
    along = float((here.gradient * direction).sum())
    length, low, high = 1.0, 0.0, math.inf
    for _ in range(_TRIES):
        step = length * direction
        there = slope_at(weights + step)
        now = float((there.gradient * direction).sum())
        if now > -_PAST * along:
            high = length
        elif now < _STEEPER * along:
            low = length
        else:
            break
        # Where the slope along the line would be 0 if it grew evenly.
        even = length * along / (along - now) if now > along else math.inf
        length = even if low < even < high else (low + min(high, 9 * length)) / 2
    return step, there


def _times_inverse(
    pairs: Sequence[_Pair], inverse: Callable[[Tensor], Tensor], gradient: Tensor
) -> Tensor:
    """Return the two-loop recursion's product with ``gradient``."""
    found, parts = gradient, []
    for pair in reversed(pairs):
        part = pair.scale * float((pair.step * found).sum())
        found = found - part * pair.change
        parts.append(part)
    found = inverse(found)
    for pair, part in zip(pairs, reversed(parts), strict=True):
        back = pair.scale * float((pair.change * found).sum())
        found = found + (part - back) * pair.step
    return found
