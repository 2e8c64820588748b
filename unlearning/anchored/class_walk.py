"""Forget a class: a few Newton steps from the present weights, each with new gradients.

Forgetting records takes one short step, along which the loss is nearly linear. Forgetting a whole
class takes a longer way: along one straight line the other classes lose accuracy, or the class
comes back where the loss is no longer linear. So the way is taken in several steps. At each point,
with g_f and g_r the mean gradients of a sample of the class and of a sample of the retained rows,

    δ = P_r (g_f − g_r), normalised

is followed until the mean loss of the class has doubled. The retained rows enter the step twice, as
the correction g_r and as the curvature P_r = (K_r + λI)⁻¹, which is computed from them alone: the
curvature of all training rows would resist forgetting the class. K_r is the *empirical* K-FAC. Over
labels that the model draws, the curvature would also preserve what the model still assigns to the
class.

The target follows from what a model without the class would predict: an outcome that was never
seen in n trials has probability 1/(n + 2) by Laplace's rule of succession, so the mean loss of the
class's rows is to reach log(n + 2), n the number of retained rows.

The cost is that of a sample per step, whatever the size of the training set or of the class.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from unlearning.anchored import calibration
from unlearning.anchored.calibration import Guard, Strength
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.curvature import estimation
from unlearning.errors import UnusableDirection

#: A goal within this share of the target becomes the target, to save a last short step.
_LAST = 0.75


@dataclass(frozen=True)
class Walk:
    """Settings of the walk; the defaults worked on every network tried."""

    #: Largest number of rows of the class, and of retained rows, that a step uses.
    rows: int = 1000
    #: λ as a share of the curvature's mean diagonal; a factor of three either way works as well.
    damping: float = 0.003
    #: Factor by which one step multiplies the mean loss of the class.
    growth: float = 2.0
    #: Longest step, as a share of the weights' norm.
    stride: float = 0.125
    most_steps: int = 12
    #: Largest distance of a step from its goal, as a share of the goal.
    tolerance: float = 0.05
    preconditioner: Literal["kfac", "none"] = "kfac"


@dataclass(frozen=True)
class Walked:
    """The result of the walk; ``strength.value`` is the length of the whole way."""

    model: nn.Module
    strength: Strength
    steps: int


def leave(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    accuracy: float,
    guard: Guard | None,
    walk: Walk | None = None,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Walked:
    """Return a copy of ``model`` that expects the class of ``forget`` as little as an unseen one.

    Ends when the mean loss of the class is log(n + 2) and at most the share ``accuracy`` of its
    rows is recognised (``reached``); when ``guard`` allows no further step (``guarded``); or when
    no direction raises the loss any more (``unreachable``).
    """
    walk = walk or Walk()
    network = copy.deepcopy(model).eval()
    rows = forget.sample(walk.rows, generator=generator)
    reached = float(objective.losses(network, rows).double().mean())
    way = Strength(0.0, reached, math.log(len(retain) + 2), "unreachable", 1)
    steps = 0
    while not (gone := _is_gone(network, rows, way, walk, accuracy)) and steps < walk.most_steps:
        progress(steps / walk.most_steps)
        rows = forget.sample(walk.rows, generator=generator)
        pull, losses = objective.summed_gradient_and_losses(network, rows)
        before = float(losses.double().mean())
        delta = _direction(network, pull / len(rows), retain, walk, generator)
        taken = _step(network, rows, delta, before, way, steps, walk, guard)
        way, steps = _longer(way, taken), steps + 1
        if taken.status == "guarded" or not (taken.reached or 0.0) > before:
            break
    status = "reached" if gone else way.status
    return Walked(network, replace(way, status=status), steps)


def _is_gone(
    network: nn.Module, rows: Examples, way: Strength, walk: Walk, accuracy: float
) -> bool:
    assert way.reached is not None
    assert way.target is not None
    if way.status == "guarded" or way.reached < (1 - walk.tolerance) * way.target:
        return False
    return float(objective.correct(network, rows).double().mean()) <= accuracy


def _direction(
    network: nn.Module, pull: Tensor, retain: Examples, walk: Walk, generator: torch.Generator
) -> Tensor:
    """Return δ (p,) float64 from the class's mean gradient ``pull`` and sampled retained rows."""
    kept = retain.sample(walk.rows, generator=generator)
    step = pull - objective.summed_gradient(network, kept) / len(kept)
    if walk.preconditioner == "kfac":
        curvature = estimation.estimate(
            network,
            kept,
            fisher="empirical",
            relative_damping=walk.damping,
            generator=generator,
        )
        step = curvature.solve(step)
    length = float(torch.linalg.vector_norm(step))
    if not 0 < length < math.inf:
        raise UnusableDirection(
            "the gradients of the class and of the retained rows give no direction to step in; "
            "retrain the model without the class"
        )
    return step / length


def _step(
    network: nn.Module,
    rows: Examples,
    delta: Tensor,
    before: float,
    way: Strength,
    steps: int,
    walk: Walk,
    guard: Guard | None,
) -> Strength:
    """Move ``network`` along ``delta`` until the loss of ``rows`` reaches this step's goal."""
    start = objective.flatten(network)
    norm = float(torch.linalg.vector_norm(start))
    change = delta.to(start.dtype)

    def apply(strength: float) -> nn.Module:
        objective.load(network, start + strength * change)
        return network

    def measure(moved: nn.Module) -> float:
        return float(objective.losses(moved, rows).double().mean())

    aim = _aim(network, rows, before, way, walk)
    goal = calibration.Goal(measure, before, aim, walk.tolerance * aim)
    found = calibration.search(
        apply,
        goal=goal,
        guard=guard,
        start=way.value / steps if steps else walk.stride * norm / 4,
        ceiling=walk.stride * norm,
    )
    apply(found.value)
    return found


def _aim(network: nn.Module, rows: Examples, before: float, way: Strength, walk: Walk) -> float:
    """Return the mean loss at which a step is to end."""
    assert way.target is not None
    classes = objective.logits(network, rows.subset(torch.arange(1))).shape[1]
    # While the class is recognised, the first step ends where the model guesses at random.
    aim = max(math.log(classes), walk.growth * before)
    if before < way.target and aim > _LAST * way.target:
        return way.target
    return aim


def _longer(way: Strength, taken: Strength) -> Strength:
    return replace(
        taken,
        value=way.value + taken.value,
        target=way.target,
        status="guarded" if taken.status == "guarded" else way.status,
        passes=way.passes + taken.passes,
    )
