"""Take back every training step whose batch held a row to forget, then heal.

    θ ← θ − Σ_{b : b ∩ D_f ≠ ∅} Δ_b;   then ``epochs`` epochs of CE on D_r

with Δ_b (p,) the change of the step parameters that training batch b made, kept in an update log.
``x`` (n, *shape), ``y`` (n,) int64, logits (n, classes). Graves et al., Amnesiac Machine Learning
(2021), section 3.2.

Needs a model that was trained with its update log, and rows with the same numbers as then.
Batch-norm parameters are not in the log and stay.

The updates are undone whole at either strength: a part of Δ_b left in the weights would be a part
of D_f that no later batch could undo, as an update leaves the log only once. The calibrated
strength searches the length of the healing instead. It continues until the guard holds and the loss
on D_f is down to its target, for at most ten times ``epochs``; if that leaves the loss below the
target, the point that meets it is searched on the line back to the weights before the healing.

Guarantee: empirical. The update itself is undone, but later updates were computed from weights that
contained it. If most batches held a forgotten row (about 1 − (1 − share)^batch of them do) little
training is left, and retraining costs no more; the update's notes say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from unlearning.anchored.calibration import Goal, Strength
from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.core.update_log import UpdateLog
from unlearning.errors import NeedsRetrain, WrongOptions
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "training"
NEEDS = {"update_log": FORGETS}

# Share of the batches above which healing is most of a training.
_MOST = 0.5

# A calibrated healing may take up to this many times the epochs.
_LONGER = 10


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """One epoch of healing by SGD at .01, momentum .9."""

    epochs: Annotated[int, Ge(0), Le(1000)] = 1


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model without the training steps that saw ``forget``."""
    _strength.check(forget, retain)
    log = _log(context)
    batches = holding(log, forget.positions)
    start = objective.at(model, objective.flatten(model) - _sum(log, batches, model))

    def losses(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        for x, y in _fine_tuning.retained(network, retain, options.batch_size, generator):
            yield task.loss(network(x), y).mean()

    if options.strength == "authors":
        update = _fine_tuning.run(
            model,
            losses,
            start=start,
            options=options,
            forget=forget,
            retain=retain,
            context=context,
            generator=generator,
        )
    else:
        aim = _strength.aim(
            model, forget, retain, options=options, context=context, generator=generator
        )
        sample = retain.sample(_fine_tuning.STATISTICS_ROWS, generator=generator)
        with _fine_tuning.seeded_dropout(model, generator):
            update = _healed(_fine_tuning.Course(start, losses), aim, options, context, sample)
    share = len(batches) / max(1, len(log))
    notes = {**update.notes, "batches_taken_back": len(batches), "batches_logged": len(log)}
    because = update.retrain_because
    if share > _MOST:
        because += (f"{share:.0%} of the training batches held a row to forget",)
    return replace(update, notes=notes, retrain_because=because, update_log=_without(log, batches))


def _healed(
    course: _fine_tuning.Course,
    aim: _strength.Aim,
    options: Options,
    context: Context,
    retained: Examples,
) -> Update:
    """Return the update with as much healing as target and guard require."""
    settings = replace(options, epochs=_LONGER * options.epochs)
    network, epochs = course.start, 0
    seen = aim.guard.look(network)
    for network in course.epochs(settings, context.progress):
        epochs += 1
        seen = aim.guard.look(network)
        if seen.holds and not _above(aim.goal, network):
            break
    _strength.checked(network)
    if not seen.holds:
        raise NeedsRetrain(
            f"{epochs} epochs of healing leave held-out rows worse than is allowed (the loss "
            f"{seen.loss_rise:.3f} of {aim.guard.loss_limit:.3f}, the accuracy "
            f"{seen.accuracy_drop:.3f} of {aim.guard.accuracy_limit:.3f}): allow more epochs, or "
            "retrain"
        )
    notes: dict[str, Any] = {"learning_rate": options.learning_rate, "epochs": epochs}
    if aim.goal is not None and _above(aim.goal, network):
        found = Strength(
            value=0.0,
            reached=aim.goal.measure(network),
            target=aim.goal.target,
            status="unreachable",
            passes=epochs,
            guard_rise=seen.loss_rise,
            guard_rows=seen.rows,
            guard_drop=seen.accuracy_drop,
        )
        update = _strength.update(network, found)
    else:
        goal = aim.goal and replace(aim.goal, base=aim.goal.measure(network))
        back = _strength.chord(network, course.start, retained=retained)
        update = _strength.search(back, aim=replace(aim, goal=goal), ceiling=1.0)
    return replace(update, notes={**update.notes, **notes})


def _above(goal: Goal | None, network: nn.Module) -> bool:
    """Return whether the rows to forget have a higher loss than never-seen rows."""
    if goal is None or goal.tolerance is None:
        return False
    return goal.measure(network) > goal.target + goal.tolerance


def holding(log: UpdateLog, positions: Tensor) -> list[int]:
    """Return the numbers of the logged batches that held a row at ``positions`` (m,) int64."""
    return [i for i, rows in enumerate(log.rows) if torch.isin(rows, positions.cpu()).any()]


def _without(log: UpdateLog, batches: list[int]) -> UpdateLog:
    """Return the log of the updates still in the weights, so that none is undone twice."""
    kept = sorted(set(range(len(log))) - set(batches))
    return UpdateLog(log.max_bytes, [log.rows[i] for i in kept], [log.deltas[i] for i in kept])


def _sum(log: UpdateLog, batches: list[int], model: nn.Module) -> Tensor:
    """Return Σ Δ_b over ``batches`` (p,), in float64, so that no rounding stays in the weights."""
    start = objective.flatten(model)
    total = torch.zeros_like(start, dtype=torch.float64, device="cpu")
    for i in batches:
        total += log.deltas[i]
    return total.to(start)


def _log(context: Context) -> UpdateLog:
    log = context.update_log
    if log is None:
        raise WrongOptions(
            "amnesiac needs the log of training updates: train the model with an update log, or "
            "choose another method"
        )
    if not log.complete:
        raise NeedsRetrain(
            "the log of training updates ended before training did: raise its size and retrain"
        )
    return log
