"""The step of ``iau`` along one direction from the anchor, and how long it is.

Its parts that check what is given and explain what was reached serve the other forms as well.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unlearning.anchored import anchor as anchors
from unlearning.anchored import calibration, preparation
from unlearning.anchored.anchor import Anchor, Direction, Forgotten
from unlearning.anchored.calibration import Guard, Strength
from unlearning.core import objective
from unlearning.core.examples import Examples, concatenate
from unlearning.errors import NeedsRetrain, WrongOptions
from unlearning.methods._contract import Context
from unlearning.methods._iau_options import Options

#: Rise of the mean validation loss that the guard always allows, because a share of a loss near
#: zero would be noise.
_ALWAYS_ALLOWED = {"records": 0.01, "class": 0.05}


@dataclass(frozen=True)
class Task:
    """Inputs of the search for a strength: the anchor's model, the direction, the guard."""

    base: nn.Module
    forget: Examples
    anchor: Anchor
    forgotten: Forgotten
    direction: Direction
    apply: calibration.Apply
    guard: Guard | None


def task(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> tuple[Task, Anchor | None]:
    """Return what the strength is searched with, and the anchor if it was prepared here."""
    check_calibration(context)
    anchor, prepared = anchor_of(model, forget, retain, options, context, generator)
    check_no_class_is_gone(anchor, context)
    forgotten = anchors.forget(anchor, context.forgotten, model, forget)
    direction = _direction(anchor, forgotten, options)
    base = anchors.at(anchor, model)
    apply = anchors.along(anchor, direction, copy.deepcopy(base))
    guard = _guard(base, anchor, forget, options, context)
    return Task(base, forget, anchor, forgotten, direction, apply, guard), prepared


def _direction(anchor: Anchor, forgotten: Forgotten, options: Options) -> Direction:
    preconditioned = options.preconditioner == "kfac"
    if options.step == "sgd":
        return anchors.direction(anchor, forgotten, preconditioned=preconditioned, evenly=False)
    if not anchors.has_gap(anchor) and preconditioned:
        return anchors.newton(anchor, forgotten)
    return anchors.direction(anchor, forgotten, preconditioned=preconditioned)


def anchor_of(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> tuple[Anchor, Anchor | None]:
    """Return the anchor to step from, and again if it was prepared here, else None."""
    given = context.anchor
    if given is not None:
        if options.preconditioner == "kfac" and given.curvature is None:
            raise WrongOptions("the anchor has no curvature: prepare it again, or choose none")
        return given, None
    if context.forgotten is not None:
        raise WrongOptions("rows forgotten earlier are given without the anchor they belong to")
    if context.moved:
        raise NeedsRetrain(
            "the model has moved from the weights its chain began with, and nothing was prepared "
            "there to step from; retrain, and prepare the new anchor"
        )
    if context.calibration is None:
        raise WrongOptions("preparing an anchor needs calibration rows")
    prepared = preparation.prepare(
        model,
        concatenate(retain, forget),
        context.calibration,
        options=preparation.Preparation(
            preconditioner=options.preconditioner, batch_size=options.batch_size
        ),
        loss=context.training_loss,
        generator=generator,
        progress=lambda fraction: context.progress(0.9 * fraction),
    )
    return prepared, prepared


def check_calibration(context: Context) -> None:
    """Raise ``WrongOptions`` without held-out rows."""
    if context.calibration is None or not len(context.calibration):
        raise WrongOptions("a step without calibration rows has no target and no guard")


def check_no_class_is_gone(anchor: Anchor | None, context: Context) -> None:
    """Raise ``NeedsRetrain`` after a forgotten class: no retained row keeps it forgotten."""
    if anchor is None or context.forgotten is None:
        return
    there = anchor.class_counts > 0
    if bool((context.forgotten.class_counts >= anchor.class_counts)[there].any()):
        raise NeedsRetrain(
            "a whole class was forgotten since the anchor, and another step would bring it back: "
            "retrain, or make the present version an anchor"
        )


def _guard(
    base: nn.Module, anchor: Anchor, forget: Examples, options: Options, context: Context
) -> Guard | None:
    if context.kind == "class":
        return class_guard(base, forget, options, context)
    assert context.calibration is not None
    limit = max(options.guard_rise * anchor.validation_loss, _ALWAYS_ALLOWED["records"])
    return Guard(base, context.calibration, limit=limit, rows=options.guard_rows)


def class_guard(
    base: nn.Module, forget: Examples, options: Options, context: Context
) -> Guard | None:
    """Return the guard on held-out rows of the other classes; the forgotten one must get worse."""
    held_out = context.calibration
    assert held_out is not None
    others = torch.isin(held_out.labels, forget.labels, invert=True).nonzero()[:, 0]
    if not len(others):
        return None
    rows = held_out.subset(others)
    loss = float(objective.losses(base, _first(rows, options.guard_rows)).double().mean())
    limit = max(options.class_guard_rise * loss, _ALWAYS_ALLOWED["class"])
    return Guard(base, rows, limit=limit, rows=options.guard_rows)


def _first(examples: Examples, count: int) -> Examples:
    return examples.subset(torch.arange(min(count, len(examples))))


def strength(
    task: Task, options: Options, context: Context, generator: torch.Generator
) -> tuple[str, Strength]:
    """Return how the strength was found, and the strength."""
    if options.step == "sgd":
        return "fixed", _fixed(task, options.learning_rate * task.direction.length)
    anchor, step = task.anchor, task.direction
    if not anchors.has_gap(anchor):
        # Training rows do not differ in their loss, so there is no gap; use the influence step.
        return "natural", _fixed(task, step.natural)
    law = anchor.law if options.preconditioner == "kfac" else None
    expected = law.strength(task.forgotten.count, step.slope) if law is not None else None
    rows = _searchable(task.forget, context)
    if rows is None:
        if expected is None:
            raise NeedsRetrain(
                "earlier forgotten rows are erased and the anchor has no law for the strength: "
                "retrain, or prepare the anchor with its law"
            )
        return "law", _fixed(task, expected)
    goal = calibration.loss_goal(
        task.base,
        rows,
        gap=anchor.gap,
        tolerance=options.tolerance,
        rows=options.search_rows,
        generator=generator,
    )
    return "search", _search(task, goal, expected or 0.5 * anchor.gap / step.slope)


def _searchable(forget: Examples, context: Context) -> Examples | None:
    """Return all rows forgotten since the anchor, if none of them has been erased."""
    if context.forgotten is None or not context.forgotten.count:
        return forget
    earlier = context.earlier
    if earlier is None or len(earlier) != context.forgotten.count:
        return None
    return concatenate(earlier, forget)


def _search(task: Task, goal: calibration.Goal, start: float) -> Strength:
    return calibration.search(
        task.apply,
        goal=goal,
        guard=task.guard,
        start=start,
        ceiling=anchors.ceiling(task.anchor),
    )


def _fixed(task: Task, strength: float) -> Strength:
    return calibration.guarded(task.apply, strength, guard=task.guard)


def reasons(task: Task, options: Options, context: Context, found: Strength) -> tuple[str, ...]:
    """Return reasons to retrain after the step."""
    short = short_of_target(found, task.guard)
    if context.kind == "class":
        return tuple(short)
    drifted = drift(task.anchor, task.forgotten, options.max_forgotten_share, options)
    return (*short, *drifted)


def drift(anchor: Anchor, forgotten: Forgotten, most: float, options: Options) -> tuple[str, ...]:
    """Return reasons to retrain because of how much was forgotten since the anchor."""
    reasons = []
    share = forgotten.count / anchor.count
    if share > most:
        reasons.append(f"drift: {share:.1%} of the anchor's rows are forgotten")
    shares = forgotten.class_counts / anchor.class_counts.clamp_min(1)
    if float(shares.max()) > options.max_class_share:
        label = int(shares.argmax())
        reasons.append(f"class: {float(shares[label]):.1%} of class {label} are forgotten")
    return tuple(reasons)


def short_of_target(found: Strength, guard: Guard | None) -> list[str]:
    """Return why the step is shorter than it should be; empty if it is not."""
    if found.status == "guarded":
        assert guard is not None
        limit = f"{guard.limit:.3f}"
        return [f"guard: at full strength the validation loss rises by more than {limit}"]
    if found.status == "unreachable":
        return ["target: no step along the direction reaches it"]
    return []


def notes(task: Task, options: Options, how: str, found: Strength) -> dict[str, Any]:
    """Return the notes of a step along the direction; ``how`` its strength was found."""
    return {
        "step": options.step,
        "preconditioner": options.preconditioner,
        "strength_from": how,
        **reached(found),
        "relative_distance": found.value / max(anchors.ceiling(task.anchor), 1e-30),
        "slope": task.direction.slope,
        "retain_weight": task.direction.retain_weight,
        "gap": task.anchor.gap,
        "evenness": task.anchor.evenness,
        "forgotten_since_anchor": task.forgotten.count,
    }


def reached(found: Strength) -> dict[str, Any]:
    """Return the notes about the strength that any search gives."""
    return {
        "strength": found.value,
        "target": found.target,
        "reached": found.reached,
        "status": found.status,
        "search_passes": found.passes,
        "guard_rise": found.guard_rise,
        "guard_rows": found.guard_rows,
    }
