"""The matched form of ``iau``: from targets and an anchor to an update, under a guard."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.anchored import anchor as anchors
from unlearning.anchored import correction, margins, matched, walk
from unlearning.anchored import guard as guards
from unlearning.anchored.anchor import Anchor, Forgotten
from unlearning.anchored.guard import Look, PairedGuard
from unlearning.anchored.matched import Report, Rows
from unlearning.anchored.targets import BatchMargins
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.errors import NothingRetained, WrongOptions

#: Retained rows that are held at once per forgotten row, and at least.
_HELD_PER_ROW = 4
_LEAST_HELD = 128
#: Validation rows that decide about the correction, at most.
_COMPARED = 1000
#: Rise of the mean validation loss that the guard always allows.
_ALWAYS_ALLOWED = 0.02
#: A batch is short of its target if its rows keep more than this share of their distance.
_SHORT = 0.25


@dataclass(frozen=True)
class Limits:
    """Limits of the guard, and numbers of rows."""

    loss_rise: float
    accuracy_drop: float
    guard_rows: int
    retained_rows: int


@dataclass(frozen=True)
class Moved:
    """The model after the step, and data about the step."""

    model: nn.Module
    forgotten: Forgotten
    notes: Mapping[str, Any]
    reasons: tuple[str, ...]


def usable(known: BatchMargins | None) -> bool:
    """Return whether there is a target for at least one row."""
    return known is not None and bool(known.forget.value.isfinite().any())


def step(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    known: BatchMargins,
    *,
    anchor: Anchor,
    forgotten: Forgotten | None,
    validation: Examples,
    settings: matched.Settings,
    correcting: correction.Settings,
    limits: Limits,
    generator: torch.Generator,
) -> Moved:
    """Move ``model`` from its present weights until each forgotten row is at its target.

    The running sums of the anchor are kept, so that an anchored step may follow.
    """
    if len(known.forget.value) != len(forget):
        raise WrongOptions(
            f"targets are given for {len(known.forget.value)} rows, and {len(forget)} are to go"
        )
    if not len(retain):
        raise NothingRetained
    wide = objective.widened(model).eval()
    base = anchors.at(anchor, wide)
    targets, guessed = _filled(known, forget, base, validation)
    before = 0 if forgotten is None else forgotten.count
    count = before + len(forget)
    walked = walk.to_targets(
        wide,
        Rows(forget, targets),
        _pool(retain, known, base, limits, generator),
        base=base,
        validation=guards.sample(validation, min(limits.guard_rows, _COMPARED)),
        curvature=anchor.curvature,
        settings=replace(settings, held=max(_LEAST_HELD, _HELD_PER_ROW * count)),
        correcting=replace(correcting, loss=anchor.loss),
        moved_before=forgotten is not None,
        trained_rows=anchor.count,
        retain=retain.sample(limits.retained_rows, generator=generator),
        generator=generator,
    )
    network, report = walked.network, walked.report
    lost = before + known.forget.left_out.lost(targets)
    left_out = known.forget.left_out.at(lost / anchor.count)
    weights, seen, held = _guarded(base, validation, network, walked.way, anchor, limits, left_out)
    moved = copy.deepcopy(model).eval()
    objective.load(moved, weights)
    # After rounding to the model's own precision.
    after = margins.of_examples(objective.widened(moved).eval(), forget) - walked.goal
    return Moved(
        moved,
        anchors.forget(anchor, forgotten, wide, forget),
        {
            **_told(known, report, seen, held),
            "correction_steps": walked.corrected,
            "guessed": guessed,
            "rms_after": _rms(after),
        },
        _reasons(known, report, after, held),
    )


def _filled(
    known: BatchMargins, forget: Examples, base: nn.Module, validation: Examples
) -> tuple[Tensor, int]:
    """Return a target for every row, and how many had none.

    A row without one gets the mean margin of the validation rows, that of an average unseen row.
    """
    value = known.forget.value.double().cpu()
    missing = ~value.isfinite()
    if not bool(missing.any()):
        return value, 0
    held_out = margins.of_examples(base, validation)
    mean = held_out[held_out.isfinite()].mean()
    return torch.where(missing, mean, value), int(missing.sum())


def _pool(
    retain: Examples,
    known: BatchMargins,
    base: nn.Module,
    limits: Limits,
    generator: torch.Generator,
) -> Rows:
    """Draw the retained rows that may be held, with their margins under the anchor.

    How many of them are held at once grows with the rows forgotten since the anchor: where a few
    rows are moved back to the anchor's margins, the others follow towards the anchor, and with them
    what earlier batches have forgotten.
    """
    where = torch.randperm(len(retain), generator=generator)[: limits.retained_rows]
    rows = retain.subset(where)
    if known.retained is None:
        return Rows(rows, margins.of_examples(base, rows))
    if len(known.retained) != len(retain):
        raise WrongOptions(
            f"margins are given for {len(known.retained)} retained rows of {len(retain)}"
        )
    return Rows(rows, known.retained.double().cpu()[where])


def _guarded(
    base: nn.Module,
    validation: Examples,
    network: nn.Module,
    way: list[Tensor],
    anchor: Anchor,
    limits: Limits,
    left_out: tuple[float, float],
) -> tuple[Tensor, Look, bool]:
    """Return the last weights on the way at which the guard holds, against the anchor's.

    ``left_out``: rise of the loss and drop of the accuracy of a training without the rows, which
    the step may cost as well.
    """
    rise, drop = left_out
    guard = PairedGuard(
        base,
        validation,
        loss_limit=rise + max(limits.loss_rise * anchor.validation_loss, _ALWAYS_ALLOWED),
        accuracy_limit=drop + limits.accuracy_drop,
        rows=limits.guard_rows,
        # At most as much again as is allowed.
        excused=limits.accuracy_drop,
    )

    def load(weights: Tensor) -> nn.Module:
        objective.load(network, weights)
        return network

    return guards.last_that_holds(guard, way, load)


def _told(known: BatchMargins, report: Report, seen: Look, held: bool) -> dict[str, Any]:
    return {
        "step": "matched",
        "strength_from": "targets",
        "status": "reached" if held else "guarded",
        "rms_before": report.before,
        "held_rms": report.retained,
        "jacobians": report.steps,
        "solver": report.solver,
        "solver_iterations": report.iterations,
        "bytes_formed": report.bytes_formed,
        "phase_seconds": {name: round(s, 6) for name, s in report.seconds.items()},
        "undefined": report.undefined,
        "splits": known.forget.splits,
        "reliability": known.forget.reliability,
        "spread": known.forget.spread,
        "guard_rise": seen.loss_rise,
        "guard_drop": seen.accuracy_drop,
        "guard_rows": seen.rows,
    }


def _reasons(known: BatchMargins, report: Report, after: Tensor, held: bool) -> tuple[str, ...]:
    reasons = []
    if not held:
        reasons.append(
            "guard: at its full length the step costs more validation loss or accuracy than allowed"
        )
    far = max(_SHORT * report.before, known.forget.spread)
    if _rms(after) > far:
        reasons.append(f"target: the rows are still {_rms(after):.1f} from their margins (rms)")
    if lost := int((~after.isfinite()).sum()):
        reasons.append(f"undefined: {lost} rows have a margin that is not finite")
    return tuple(reasons)


def _rms(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.square().mean().sqrt()) if len(finite) else 0.0
