"""Influence approximation unlearning: one anchored, preconditioned, calibrated step.

After "Efficient Machine Unlearning via Influence Approximation" (arXiv 2507.23257). Removing
examples moves the optimum as adding points with the opposite gradient would, so forgetting is one
incremental-learning step on opposite points (incremental approximation), corrected by the retained
rows' gradient (gradient correction), of a model that was trained to have small gradients (gradient
restriction, in ``unlearning.core.training``). Four forms of the step:

- ``matched``: each row is moved as far as *it* was memorised. Models of the same recipe that never
  saw a row give the margin that it should have (``unlearning.anchored.margins``, ``.targets``); one
  step from the present weights moves the rows there, weighted by the anchor's curvature, while a
  sample of retained rows is held (``unlearning.anchored.matched``). The opposite points are the
  rows with their targets, the correction is the held rows and the curvature. New are the targets
  per row, and that earlier forgotten rows are not needed. Without margins of the batch's rows
  ``calibrated`` is used instead, and the notes say so (``instead_of``).

- ``calibrated``: θ = θ₀ + η·δ, δ = P(g_w − c·g_r)/‖·‖ from the anchor θ₀ with all rows F forgotten
  since, P the damped K-FAC inverse, g_w the mean of their gradients, weighted so that memorised
  rows count if there are any (``Anchor.evenness``). η is searched until the mean forget loss has
  risen by the generalisation gap, or, once earlier forgotten rows are erased, computed from a law
  fitted when the anchor was prepared; it is halved while the validation loss rises too far.
  A class is forgotten in several such steps from the present weights, each with a new gradient and
  the curvature of retained rows (``unlearning.anchored.class_walk``).
- ``sgd``: the same direction unweighted and unnormalised, times the learning rate.
- ``adam1``: the authors' released update: one step of a new Adam optimiser on
  ∇mean ℓ(D_r) − ∇mean ℓ(D_f), full batches, from the given model. The first Adam step is
  lr·sign(g), independent of the gradient's size; preconditioner and guard are not used.

Guarantee: empirical. The direction is an influence estimate under a quadratic loss around θ₀; the
strength matches a statistic (the mean loss), not a distribution.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import nn

from unlearning.anchored import anchor as anchors
from unlearning.anchored import calibration, class_walk, matched, preparation
from unlearning.anchored.anchor import Anchor, Direction, Forgotten
from unlearning.anchored.calibration import Guard, Strength
from unlearning.core import objective
from unlearning.core.examples import Examples, concatenate
from unlearning.errors import NeedsRetrain, NothingRetained, UnusableDirection, WrongOptions
from unlearning.methods import _matched
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "step"
# A class is forgotten from the present weights and needs no anchor.
NEEDS = {"anchor": {"records"}}

#: Rise of the mean validation loss that the guard always allows, because a share of a loss near
#: zero would be noise.
_ALWAYS_ALLOWED = {"records": 0.01, "class": 0.05}


@dataclass(frozen=True)
class Options:
    """Settings of the step; the defaults are meant to be left alone."""

    #: "matched" needs out-of-fold margins of the rows; without them "calibrated" is taken.
    step: Literal["matched", "calibrated", "adam1", "sgd"] = "matched"
    preconditioner: Literal["kfac", "none"] = "kfac"
    #: For ``adam1`` and ``sgd``; the calibrated step finds its own length.
    learning_rate: Annotated[float, Gt(0), Le(10)] = 1e-3
    #: How near the target the mean forget loss must come, as a share of the gap.
    tolerance: Annotated[float, Gt(0), Le(0.5)] = 0.04
    #: Forgotten rows that the search looks at, at most.
    search_rows: Annotated[int, Ge(1), Le(100_000)] = 1024
    #: Allowed relative rise of the validation loss (a rise of 0.01 passes in any case).
    guard_rise: Annotated[float, Gt(0), Le(1)] = 0.02
    #: The same for a whole class, on the other classes' rows: leaving a class takes a longer step.
    class_guard_rise: Annotated[float, Gt(0), Le(1)] = 0.15
    #: Validation rows that the guard looks at, at most.
    guard_rows: Annotated[int, Ge(1), Le(1_000_000)] = 2000
    #: Accuracy on a forgotten class at which its forgetting stops.
    class_accuracy: Annotated[float, Ge(0), Le(1)] = 0.01
    #: Share of the anchor's rows, and of one class's, beyond which a retrain is asked for.
    max_forgotten_share: Annotated[float, Gt(0), Le(1)] = 0.10
    max_class_share: Annotated[float, Gt(0), Le(1)] = 0.25
    #: For ``matched``: how far a row may stay from its target, against the curvature. On digits
    #: 0.1 to 100 are alike.
    noise: Annotated[float, Gt(0), Le(1e6)] = 0.1
    #: For ``matched``: how often the margins' derivatives are taken anew on the way.
    jacobians: Annotated[int, Ge(1), Le(100)] = 4
    #: For ``matched``: retained rows that are held where they were, at most.
    retained_rows: Annotated[int, Ge(1), Le(100_000)] = 512
    #: For ``matched``: megabytes of per-row gradients that may be formed.
    memory_megabytes: Annotated[int, Ge(1), Le(1_000_000)] = 512
    #: For ``matched``: allowed relative rise of the validation loss (0.02 passes in any case) and
    #: drop of the validation accuracy since the anchor, each beyond its standard error.
    matched_guard_rise: Annotated[float, Gt(0), Le(1)] = 0.10
    matched_guard_drop: Annotated[float, Gt(0), Le(1)] = 0.01
    #: For ``matched``: share of the anchor's rows beyond which a retrain is asked for.
    matched_forgotten_share: Annotated[float, Gt(0), Le(1)] = 0.20
    batch_size: Annotated[int, Ge(1), Le(65_536)] = objective.BATCH


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of ``model`` with ``forget`` unlearned; ``model`` is not changed.

    Records: with a prepared anchor ``retain`` is not read (except by ``adam1``); without one,
    ``model`` becomes the anchor, is prepared here, and is returned in the update. A class: a sample
    of ``retain`` is read and no anchor is needed.
    """
    if not len(forget):
        raise WrongOptions("there are no rows to forget")
    if options.step == "adam1":
        return _adam1(model, forget, retain, options, context)
    if context.kind == "class" and options.step in ("matched", "calibrated"):
        return _leave_class(model, forget, retain, options, context, generator)
    if options.step == "matched":
        if _matched.usable(context.margins):
            return _to_targets(model, forget, retain, options, context, generator)
        update = unlearn(
            model,
            forget,
            retain,
            options=replace(options, step="calibrated"),
            context=context,
            generator=generator,
        )
        said = "matched: there are no out-of-fold margins of these rows"
        return replace(update, notes={**update.notes, "instead_of": said})
    task, prepared = _task(model, forget, retain, options, context, generator)
    how, found = _strength(task, options, context, generator)
    context.progress(1.0)
    return Update(
        model=task.apply(found.value),
        forgotten=task.forgotten,
        anchor=prepared,
        notes=_notes(task, options, how, found),
        retrain_because=_reasons(task, options, context, found),
    )


@dataclass(frozen=True)
class _Task:
    """Inputs of the search for a strength: the anchor's model, the direction, the guard."""

    base: nn.Module
    forget: Examples
    anchor: Anchor
    forgotten: Forgotten
    direction: Direction
    apply: calibration.Apply
    guard: Guard | None


def _task(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> tuple[_Task, Anchor | None]:
    _check_calibration(context)
    anchor, prepared = _anchor(model, forget, retain, options, context, generator)
    _check_no_class_is_gone(anchor, context)
    forgotten = anchors.forget(anchor, context.forgotten, model, forget)
    direction = _direction(anchor, forgotten, options)
    base = anchors.at(anchor, model)
    apply = anchors.along(anchor, direction, copy.deepcopy(base))
    guard = _guard(base, anchor, forget, options, context)
    return _Task(base, forget, anchor, forgotten, direction, apply, guard), prepared


def _direction(anchor: Anchor, forgotten: Forgotten, options: Options) -> Direction:
    preconditioned = options.preconditioner == "kfac"
    if options.step == "sgd":
        return anchors.direction(anchor, forgotten, preconditioned=preconditioned, evenly=False)
    if not anchors.has_gap(anchor) and preconditioned:
        return anchors.newton(anchor, forgotten)
    return anchors.direction(anchor, forgotten, preconditioned=preconditioned)


def _anchor(
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
        generator=generator,
        progress=lambda fraction: context.progress(0.9 * fraction),
    )
    return prepared, prepared


def _check_calibration(context: Context) -> None:
    if context.calibration is None or not len(context.calibration):
        raise WrongOptions("a step without calibration rows has no target and no guard")


def _check_no_class_is_gone(anchor: Anchor | None, context: Context) -> None:
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
        return _class_guard(base, forget, options, context)
    assert context.calibration is not None
    limit = max(options.guard_rise * anchor.validation_loss, _ALWAYS_ALLOWED["records"])
    return Guard(base, context.calibration, limit=limit, rows=options.guard_rows)


def _class_guard(
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


def _strength(
    task: _Task, options: Options, context: Context, generator: torch.Generator
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


def _search(task: _Task, goal: calibration.Goal, start: float) -> Strength:
    return calibration.search(
        task.apply,
        goal=goal,
        guard=task.guard,
        start=start,
        ceiling=anchors.ceiling(task.anchor),
    )


def _fixed(task: _Task, strength: float) -> Strength:
    return calibration.guarded(task.apply, strength, guard=task.guard)


def _reasons(task: _Task, options: Options, context: Context, found: Strength) -> tuple[str, ...]:
    reasons = _short_of_target(found, task.guard)
    if context.kind == "class":
        return tuple(reasons)
    drift = _drift(task.anchor, task.forgotten, options.max_forgotten_share, options)
    return (*reasons, *drift)


def _drift(anchor: Anchor, forgotten: Forgotten, most: float, options: Options) -> tuple[str, ...]:
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


def _short_of_target(found: Strength, guard: Guard | None) -> list[str]:
    if found.status == "guarded":
        assert guard is not None
        limit = f"{guard.limit:.3f}"
        return [f"guard: at full strength the validation loss rises by more than {limit}"]
    if found.status == "unreachable":
        return ["target: no step along the direction reaches it"]
    return []


def _notes(task: _Task, options: Options, how: str, found: Strength) -> dict[str, Any]:
    return {
        "step": options.step,
        "preconditioner": options.preconditioner,
        "strength_from": how,
        **_reached(found),
        "relative_distance": found.value / max(anchors.ceiling(task.anchor), 1e-30),
        "slope": task.direction.slope,
        "retain_weight": task.direction.retain_weight,
        "gap": task.anchor.gap,
        "evenness": task.anchor.evenness,
        "forgotten_since_anchor": task.forgotten.count,
    }


def _reached(found: Strength) -> dict[str, Any]:
    return {
        "strength": found.value,
        "target": found.target,
        "reached": found.reached,
        "status": found.status,
        "search_passes": found.passes,
        "guard_rise": found.guard_rise,
        "guard_rows": found.guard_rows,
    }


def _to_targets(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Take the matched step; the given model may have moved from its anchor."""
    _check_calibration(context)
    assert context.calibration is not None
    assert context.margins is not None
    anchor, prepared = _anchor(model, forget, retain, options, context, generator)
    _check_no_class_is_gone(anchor, context)
    moved = _matched.step(
        model,
        forget,
        retain,
        context.margins,
        anchor=anchor if options.preconditioner == "kfac" else replace(anchor, curvature=None),
        forgotten=context.forgotten,
        validation=context.calibration,
        settings=matched.Settings(
            noise=options.noise,
            steps=options.jacobians,
            memory=options.memory_megabytes * 2**20,
            batch_size=options.batch_size,
        ),
        limits=_matched.Limits(
            loss_rise=options.matched_guard_rise,
            accuracy_drop=options.matched_guard_drop,
            guard_rows=options.guard_rows,
            retained_rows=options.retained_rows,
        ),
        generator=generator,
    )
    context.progress(1.0)
    return Update(
        model=moved.model,
        forgotten=moved.forgotten,
        anchor=prepared,
        notes={
            **moved.notes,
            "preconditioner": options.preconditioner,
            "forgotten_since_anchor": moved.forgotten.count,
        },
        retrain_because=(
            *moved.reasons,
            *_drift(anchor, moved.forgotten, options.matched_forgotten_share, options),
        ),
    )


def _leave_class(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Forget a class from the present weights; what was forgotten before stays forgotten."""
    _check_calibration(context)
    _check_no_class_is_gone(context.anchor, context)
    if not len(retain):
        raise NothingRetained
    guard = _class_guard(model, forget, options, context)
    walked = class_walk.leave(
        model,
        forget,
        retain,
        accuracy=options.class_accuracy,
        guard=guard,
        walk=class_walk.Walk(
            rows=options.search_rows,
            preconditioner=options.preconditioner,
            tolerance=options.tolerance,
        ),
        generator=generator,
        progress=context.progress,
    )
    context.progress(1.0)
    found = walked.strength
    notes = {
        "step": options.step,
        "preconditioner": options.preconditioner,
        "strength_from": "walk",
        "steps": walked.steps,
        **_reached(found),
    }
    return Update(
        model=walked.model, notes=notes, retrain_because=tuple(_short_of_target(found, guard))
    )


def _adam1(
    model: nn.Module, forget: Examples, retain: Examples, options: Options, context: Context
) -> Update:
    """Apply the released update; keep the running sums so that an anchored step may follow."""
    if not len(retain):
        raise NothingRetained
    kept = objective.summed_gradient(
        model, retain, batch_size=options.batch_size, progress=context.progress
    )
    gone = objective.summed_gradient(model, forget, batch_size=options.batch_size)
    gradient = kept / len(retain) - gone / len(forget)
    if not bool(torch.isfinite(gradient).all()) or not bool(gradient.any()):
        raise UnusableDirection("the gradient is zero or not finite; retrain the model")
    moved = copy.deepcopy(model)
    parameters = objective.step_parameters(moved)
    for name, piece in objective.unflatten(gradient, moved).items():
        parameters[name].grad = piece.to(parameters[name].dtype)
    torch.optim.Adam(parameters.values(), lr=options.learning_rate).step()
    for parameter in parameters.values():
        parameter.grad = None
    moved.eval()
    forgotten = context.forgotten
    if context.anchor is not None:
        forgotten = anchors.forget(context.anchor, context.forgotten, model, forget)
    notes = {"step": "adam1", "learning_rate": options.learning_rate}
    return Update(model=moved, forgotten=forgotten, notes=notes)
