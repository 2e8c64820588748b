"""The strength of a method: as its authors set it, or searched against the target of forgetting.

The target is that of the default method. Records with out-of-fold margins: their mean margin falls
to the mean of their targets, the margins of models that never saw them. Without margins: the mean
loss on the rows to forget rises by the gap between held-out and training rows. A class: the
accuracy on its rows falls to about zero. A guard lowers the strength while, row by row, held-out
rows (of the other classes) get worse than allowed: the mean loss by a share of its value, the
accuracy by some points beyond its standard error, and either by what a training without the rows
would lose in addition. If nothing is to be forgotten, because the rows lie at their targets or
training rows do not differ in their loss, the authors' setting is used, under the guard.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Le
from torch import nn

from unlearning.anchored import calibration
from unlearning.anchored.guard import PairedGuard
from unlearning.core import objective
from unlearning.core.examples import Examples, concatenate
from unlearning.errors import NeedsRetrain, NothingRetained, WrongOptions
from unlearning.methods._contract import Context, Update

# Number of rows from which the training loss is estimated.
_TRAINING_ROWS = 2048
# A gap below this share of the held-out loss is noise.
_SMALLEST_GAP = 0.01

# Rise of the mean held-out loss that is always allowed, because a share of a loss near zero would
# be noise.
_ALLOWED = {"records": 0.01, "class": 0.05}

_BECAUSE = {
    "guarded": "the guard on held-out rows stopped the step before its target",
    "unreachable": "no strength of this method reached the target of forgetting",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Every method's choice of strength."""

    #: "authors": the settings as they are; "calibrated": search how far to go.
    strength: Literal["authors", "calibrated"] = "authors"
    #: Calibrated only: allowed relative rise of the mean held-out loss.
    guard_rise: Annotated[float, Gt(0), Le(1)] = 0.02
    #: The same when a class is forgotten: its region goes to its neighbours, at their cost.
    class_guard_rise: Annotated[float, Gt(0), Le(1)] = 0.15
    #: Calibrated only: allowed drop of the accuracy on held-out rows, a share.
    guard_drop: Annotated[float, Gt(0), Le(1)] = 0.01
    #: The same when a class is forgotten.
    class_guard_drop: Annotated[float, Gt(0), Le(1)] = 0.03


def check(forget: Examples, retain: Examples) -> None:
    """Raise ``WrongOptions`` if there are no rows to forget or none to retain."""
    if not len(forget):
        raise WrongOptions("there are no rows to forget")
    if not len(retain):
        raise NothingRetained


@dataclass(frozen=True)
class Aim:
    """The target of a calibrated step, or None, and its guard."""

    goal: calibration.Goal | None
    guard: PairedGuard
    #: The goal is that of targets by row.
    by_targets: bool = False


def aim(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Aim:
    """Measure target and guard for forgetting ``forget`` on the present model."""
    held_out = context.calibration
    if held_out is None or not len(held_out):
        raise WrongOptions("strength='calibrated' needs held-out calibration rows; there are none")
    goal: calibration.Goal | None
    if context.kind == "class":
        goal = calibration.class_goal(model, forget, generator=generator)
        others = _others(held_out, forget)
        loss = _mean_loss(model, others)
        limits = options.class_guard_rise * loss, options.class_guard_drop
        return Aim(goal, _guard(model, others, limits, kind="class"))
    loss = _mean_loss(model, held_out)
    limits = options.guard_rise * loss, options.guard_drop
    if context.margins is not None:
        known = context.margins.forget
        goal = calibration.margin_goal(model, forget, targets=known.value, generator=generator)
        if bool(known.value.isfinite().any()):
            rows = known.left_out.lost(known.value)
            lost = known.left_out.at(rows / (len(forget) + len(retain)))
            guard = _guard(model, held_out, limits, kind="records", lost=lost)
            return Aim(goal, guard, by_targets=True)
    gap = loss - _training_loss(model, forget, retain, generator)
    goal = None
    if gap > _SMALLEST_GAP * loss:
        goal = calibration.loss_goal(model, forget, gap=gap, generator=generator)
    return Aim(goal, _guard(model, held_out, limits, kind="records"))


def _guard(
    model: nn.Module,
    held_out: Examples,
    limits: tuple[float, float],
    *,
    kind: str,
    lost: tuple[float, float] = (0.0, 0.0),
) -> PairedGuard:
    """Return the guard with these limits of loss and accuracy, each larger by what is ``lost``."""
    (rise, drop), (more_rise, more_drop) = limits, lost
    return PairedGuard(
        model,
        held_out,
        loss_limit=max(rise, _ALLOWED[kind]) + more_rise,
        accuracy_limit=drop + more_drop,
        loss_errors=0.0,
    )


def _mean_loss(model: nn.Module, held_out: Examples) -> float:
    return float(objective.losses(model, held_out).double().mean())


def search(
    apply: calibration.Apply, *, aim: Aim, start: float = 1.0, ceiling: float = math.inf
) -> Update:
    """Find the model of the family ``apply`` that meets the aim; strength 0 changes nothing."""
    if aim.goal is None:
        found = calibration.guarded(apply, 1.0, guard=aim.guard)
    else:
        found = calibration.search(
            apply, goal=aim.goal, guard=aim.guard, start=start, ceiling=ceiling
        )
    made = update(apply(found.value), found)
    source = {"strength_from": "targets"} if aim.by_targets else {}
    return replace(made, notes={**made.notes, **source})


def update(network: nn.Module, found: calibration.Strength) -> Update:
    """Return the update to a copy of ``network``, which the strength ``found`` gave."""
    because = _BECAUSE.get(found.status)
    return Update(
        model=checked(copy.deepcopy(network).eval()),
        notes={"strength": "calibrated", **_described(found)},
        retrain_because=() if because is None else (because,),
    )


def _described(found: calibration.Strength) -> dict[str, Any]:
    return {
        "value": found.value,
        "target": found.target,
        "reached": found.reached,
        "status": found.status,
        "search_passes": found.passes,
        "guard_rise": found.guard_rise,
        "guard_drop": found.guard_drop,
        "guard_rows": found.guard_rows,
    }


def chord(
    model: nn.Module, moved: nn.Module, *, retained: Examples | None = None
) -> calibration.Apply:
    """Return the function s ↦ the network with θ₀ + s·(θ − θ₀).

    Batch-norm statistics that differ at the two ends fit no point between them and are recomputed
    from ``retained``.

    The straight line from a model to a fine-tuned copy of itself is known to stay in a region of
    low loss (Wortsman et al., Robust fine-tuning of zero-shot models, 2022, section 3).
    """
    network = copy.deepcopy(moved).eval()
    here, there = model.state_dict(), moved.state_dict()
    moving = any(
        not torch.equal(b, dict(moved.named_buffers())[n]) for n, b in model.named_buffers()
    )

    @torch.no_grad()
    def apply(strength: float) -> nn.Module:
        for name, t in network.state_dict().items():
            if t.is_floating_point():
                t.copy_(torch.lerp(here[name], there[name], strength))
        if moving and retained is not None and strength:
            objective.recalibrate_batch_norm(network, retained)
        return network

    return apply


def checked(network: nn.Module) -> nn.Module:
    """Return the network if every number in it is finite; raise ``NeedsRetrain`` otherwise."""
    if not finite(network):
        raise NeedsRetrain(
            "the weights diverged: choose a weaker setting, strength='calibrated', or retrain"
        )
    return network


def finite(network: nn.Module) -> bool:
    """Return whether every number in the network is finite."""
    return all(bool(t.isfinite().all()) for t in network.state_dict().values())


def _training_loss(
    model: nn.Module, forget: Examples, retain: Examples, generator: torch.Generator
) -> float:
    """Return the mean loss on a sample of the training rows, those to forget included."""
    share = len(forget) / (len(forget) + len(retain))
    ours = max(1, round(share * _TRAINING_ROWS))
    training = concatenate(
        forget.sample(ours, generator=generator),
        retain.sample(max(1, _TRAINING_ROWS - ours), generator=generator),
    )
    return float(objective.losses(model, training).double().mean())


def _others(held_out: Examples, forget: Examples) -> Examples:
    """Return the held-out rows of the other classes."""
    stay = torch.isin(held_out.labels, forget.labels, invert=True).nonzero()[:, 0]
    if not len(stay):
        raise WrongOptions("the calibration rows hold no class but the one to forget")
    return held_out.subset(stay)
