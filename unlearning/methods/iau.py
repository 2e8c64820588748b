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
from dataclasses import replace

import torch
from torch import nn

from unlearning.anchored import anchor as anchors
from unlearning.anchored import class_walk, correction, matched
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.errors import NothingRetained, UnusableDirection, WrongOptions
from unlearning.methods import _calibrated, _matched
from unlearning.methods._contract import Context, Update
from unlearning.methods._iau_options import Options

__all__ = ["COST", "FORGETS", "GUARANTEE", "NEEDS", "Options", "unlearn"]

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "step"
# A class is forgotten from the present weights and needs no anchor.
NEEDS = {"anchor": {"records"}}


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
    task, prepared = _calibrated.task(model, forget, retain, options, context, generator)
    how, found = _calibrated.strength(task, options, context, generator)
    context.progress(1.0)
    return Update(
        model=task.apply(found.value),
        forgotten=task.forgotten,
        anchor=prepared,
        notes=_calibrated.notes(task, options, how, found),
        retrain_because=_calibrated.reasons(task, options, context, found),
    )


def _to_targets(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Take the matched step; the given model may have moved from its anchor."""
    _calibrated.check_calibration(context)
    assert context.calibration is not None
    assert context.margins is not None
    anchor, prepared = _calibrated.anchor_of(model, forget, retain, options, context, generator)
    _calibrated.check_no_class_is_gone(anchor, context)
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
        correcting=correction.Settings(
            steps=options.correction_steps, learning_rate=options.correction_rate
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
            *_calibrated.drift(anchor, moved.forgotten, options.matched_forgotten_share, options),
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
    _calibrated.check_calibration(context)
    _calibrated.check_no_class_is_gone(context.anchor, context)
    if not len(retain):
        raise NothingRetained
    guard = _calibrated.class_guard(model, forget, options, context)
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
        **_calibrated.reached(found),
    }
    return Update(
        model=walked.model,
        notes=notes,
        retrain_because=tuple(_calibrated.short_of_target(found, guard)),
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
