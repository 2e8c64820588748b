"""Prepare an anchor: compute once, after a training, what each later step needs.

These are the gradient of all training rows and the losses at θ₀, the curvature there, the weights
of rows in a step, and a law for its length. The last two are measured on *pseudo-forget sets*:
training rows that are moved to their target, although nobody asked to forget them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from unlearning.anchored import anchor as anchors
from unlearning.anchored import calibration, law
from unlearning.anchored.anchor import Anchor, Direction
from unlearning.anchored.calibration import Strength
from unlearning.anchored.law import Law
from unlearning.core import objective, task
from unlearning.core.determinism import deterministic
from unlearning.core.examples import Examples
from unlearning.core.task import TrainingLoss
from unlearning.curvature import estimation, signals
from unlearning.errors import UnusableDirection, WrongOptions

#: Number of pseudo-forget sets, and largest number of rows of each, that determine the evenness.
_PSEUDO_SETS = 3
_PSEUDO_ROWS = 256


@dataclass(frozen=True)
class Preparation:
    """Settings of the preparation."""

    preconditioner: Literal["kfac", "none"] = "kfac"
    fisher: signals.Fisher = "type2"
    #: Rows that the curvature is estimated on; more changes little.
    curvature_rows: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    #: λ as a share of the curvature's mean diagonal. 1e-3 to 1e-1 serve LeNet-5 alike, below 1e-4
    #: hurts. On ResNet-18 held-out rows lose the less the smaller it is, but steps become longer,
    #: and the law foretells their length less well.
    damping: Annotated[float, Gt(0), Le(100)] = 0.01
    #: Pseudo-forget sets per kind and size that the law is fitted on; 0 fits none.
    law_repeats: Annotated[int, Ge(0), Le(100)] = 3
    batch_size: Annotated[int, Ge(1), Le(65_536)] = objective.BATCH


@deterministic()
def prepare(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    *,
    options: Preparation | None = None,
    loss: TrainingLoss = task.PLAIN,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Anchor:
    """Compute the anchor at the model's present weights, which ``train`` gave it under ``loss``.

    ``validation`` must be the validation split only: rows that later judge the result must not set
    its target. The model is not changed.
    """
    options = options or Preparation()
    if not len(train) or not len(validation):
        raise WrongOptions("an anchor needs at least one training and one validation row")
    if objective.is_narrow(model):
        model = objective.widened(model)
    gradient_sum, losses = objective.summed_gradient_and_losses(
        model,
        train,
        loss=loss,
        batch_size=options.batch_size,
        progress=lambda f: progress(0.5 * f),
    )
    held_out = objective.losses(model, validation, batch_size=options.batch_size)
    progress(0.55)
    curvature = None
    if options.preconditioner == "kfac":
        curvature = estimation.estimate(
            model,
            train.sample(options.curvature_rows, generator=generator),
            fisher=options.fisher,
            loss=loss,
            relative_damping=options.damping,
            generator=generator,
            progress=lambda f: progress(0.55 + 0.25 * f),
        )
    anchor = Anchor(
        theta=objective.flatten(model),
        gradient_sum=gradient_sum,
        preconditioned_sum=_checked(curvature.solve(gradient_sum) if curvature else gradient_sum),
        class_counts=torch.bincount(train.labels.cpu(), minlength=_classes(model, train)),
        count=len(train),
        training_loss=float(losses.double().mean()),
        validation_loss=float(held_out.double().mean()),
        curvature=curvature,
        law=None,
        unstepped=objective.unstepped(model),
        loss=loss,
    )
    progress(0.8)
    anchor = replace(anchor, evenness=_evenness(anchor, model, train, validation, generator))
    progress(0.85)
    fitted = fit_law(
        anchor,
        model,
        train,
        losses,
        repeats=options.law_repeats,
        generator=generator,
        progress=lambda f: progress(0.85 + 0.15 * f),
    )
    progress(1.0)
    return replace(anchor, law=fitted)


def fit_law(
    anchor: Anchor,
    model: nn.Module,
    train: Examples,
    losses: Tensor,
    *,
    repeats: int,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Law | None:
    """Fit the law from size and slope to strength on pseudo-forget sets of training rows.

    ``losses`` (n,) are those of ``train`` at θ₀. None if there is no gap to close, or if too few
    sets could be moved to their target.
    """
    if len(train) < 2 or not anchors.has_gap(anchor):
        return None
    sets = law.pseudo_sets(train.labels, losses, repeats=repeats, generator=generator)
    points = []
    walker = anchors.at(anchor, model)
    for i, (rows, weight) in enumerate(sets):
        point = _law_point(anchor, model, walker, train.subset(rows), weight, generator)
        points += [] if point is None else [point]
        progress((i + 1) / len(sets))
    return law.fit(points)


def _evenness(
    anchor: Anchor,
    model: nn.Module,
    train: Examples,
    validation: Examples,
    generator: torch.Generator,
) -> float:
    """Find γ with which an attack on the losses cannot tell pseudo-forgotten from held-out rows.

    The AUC of that attack is measured on sets of training rows moved to their target with γ = 0
    and, if it can clearly tell them apart, with γ = 1; in between it is nearly linear.
    """
    if len(train) < 2 or not anchors.has_gap(anchor):
        return 0.0
    size = min(_PSEUDO_ROWS, max(1, len(train) // 10))
    sets = [train.sample(size, generator=generator) for _ in range(_PSEUDO_SETS)]
    held_out = validation.sample(4 * _PSEUDO_ROWS, generator=generator)
    walker = anchors.at(anchor, model)

    def excess(evenness: float) -> float:
        weighted = replace(anchor, evenness=evenness)
        found = [_auc(weighted, model, walker, rows, held_out, generator) for rows in sets]
        return sum(found) / len(found) - 0.5

    try:
        memory = excess(0.0)
        error = math.sqrt((1 / (size * len(sets)) + 1 / len(held_out)) / 12)
        if memory <= 2 * error:
            return 0.0
        return min(1.0, memory / max(memory - excess(1.0), 1e-9))
    except UnusableDirection:
        return 0.0


def _auc(
    anchor: Anchor,
    model: nn.Module,
    walker: nn.Module,
    rows: Examples,
    held_out: Examples,
    generator: torch.Generator,
) -> float:
    """Return P(loss of a held-out row > loss of one of ``rows``) with these at their target."""
    step, found = _brought(anchor, model, walker, rows, most=len(rows), generator=generator)
    moved = anchors.along(anchor, step, walker)(found.value)
    theirs = objective.losses(moved, held_out).sort().values
    ours = objective.losses(moved, rows)
    below = torch.searchsorted(theirs, ours) + torch.searchsorted(theirs, ours, right=True)
    return 1 - float(below.double().mean()) / (2 * len(theirs))


def _law_point(
    anchor: Anchor,
    model: nn.Module,
    walker: nn.Module,
    rows: Examples,
    weight: float,
    generator: torch.Generator,
) -> law.Point | None:
    """Search the strength for one pseudo-forget set exactly; None if none is found."""
    try:
        step, found = _brought(anchor, model, walker, rows, most=128, generator=generator)
    except UnusableDirection:
        return None
    if found.status != "reached" or not found.value > 0:
        return None
    return law.Point(len(rows), step.slope, found.value, weight)


def _brought(
    anchor: Anchor,
    model: nn.Module,
    walker: nn.Module,
    rows: Examples,
    *,
    most: int,
    generator: torch.Generator,
) -> tuple[Direction, Strength]:
    """Return the step for a pseudo-forget set, and the strength that moves it to its target.

    ``model`` is at the anchor and stays there; at most ``most`` of the rows are used.
    """
    step = anchors.direction(anchor, anchors.forget(anchor, None, model, rows))
    goal = calibration.loss_goal(model, rows, gap=anchor.gap, rows=most, generator=generator)
    found = calibration.search(
        anchors.along(anchor, step, walker),
        goal=goal,
        start=0.5 * anchor.gap / step.slope,
        ceiling=anchors.ceiling(anchor),
    )
    return step, found


def _checked(vector: Tensor) -> Tensor:
    if not bool(torch.isfinite(vector).all()):
        raise UnusableDirection(
            "the training gradient is not finite at the model's weights; train it again"
        )
    return vector


def _classes(model: nn.Module, train: Examples) -> int:
    return int(objective.logits(model, train.subset(torch.arange(1))).shape[1])
