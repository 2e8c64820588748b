"""The anchor: weights θ₀ from training, with all that an unlearning step from there needs.

A chain of unlearned versions always steps from its anchor with everything forgotten since, so the
result does not depend on the order or the grouping of the batches. With the gradients of all
training rows summed once, a batch costs the gradient of its own rows and one solve: the retained
rows' gradient is what is left of the sum.

An anchor and its running sums carry the forgotten rows' influence. They are internal state, to be
destroyed with the next retraining, and never to be served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from unlearning import calibration, kfac, law, objective
from unlearning.errors import UnusableDirection, WrongOptions
from unlearning.examples import Examples
from unlearning.kfac import Kfac
from unlearning.law import Law


@dataclass(frozen=True)
class Preparation:
    """How an anchor is prepared."""

    preconditioner: Literal["kfac", "none"] = "kfac"
    fisher: kfac.Fisher = "type2"
    #: Rows that the curvature is estimated on; more changes little.
    curvature_rows: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    #: λ as a share of the curvature's mean diagonal. 1e-3 to 1e-1 serve LeNet-5 alike, below 1e-4
    #: hurts; on ResNet-18 held-out rows lose less with 1e-2 than with 1e-1.
    damping: Annotated[float, Gt(0), Le(100)] = 0.01
    #: Pseudo-forget sets per kind and size that the law is fitted on; 0 fits none.
    law_repeats: Annotated[int, Ge(0), Le(100)] = 3
    batch_size: Annotated[int, Ge(1), Le(65_536)] = objective.BATCH


@dataclass(frozen=True)
class Anchor:
    """θ₀ and its cached quantities; vectors are over the step parameters.

    ``theta`` (p,), ``gradient_sum`` Σ_D ∇ℓ(θ₀) (p,) float64, ``preconditioned_sum`` P·Σ (p,)
    float64, ``class_counts`` (classes,) int64 on the CPU, ``count`` = |D|, mean losses at θ₀.

    ``unstepped`` (name → tensor) is the rest of the model's state at θ₀, such as batch-norm
    statistics: other methods move it, and the same weights beside another rest are another model.
    """

    theta: Tensor
    gradient_sum: Tensor
    preconditioned_sum: Tensor
    class_counts: Tensor
    count: int
    training_loss: float
    validation_loss: float
    curvature: Kfac | None
    law: Law | None
    unstepped: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """Generalisation gap: mean validation loss minus mean training loss."""
        return self.validation_loss - self.training_loss

    def solve(self, vector: Tensor) -> Tensor:
        """P·``vector``, P the damped inverse curvature (the identity without one)."""
        return vector if self.curvature is None else self.curvature.solve(vector)

    def to_tensors(self) -> dict[str, Tensor]:
        """As CPU tensors for a safetensors file; :func:`from_tensors` reads them."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        numbers = [float(self.count), self.training_loss, self.validation_loss]
        tensors["numbers"] = torch.tensor(numbers, dtype=torch.float64)
        if self.curvature is not None:
            factors = self.curvature.to_tensors()
            tensors |= {f"curvature.{name}": t for name, t in factors.items()}
        if self.law is not None:
            tensors["law"] = self.law.to_tensor()
        tensors |= {f"unstepped.{name}": t for name, t in self.unstepped.items()}
        return {name: t.cpu().contiguous() for name, t in tensors.items()}


_TENSORS = ("theta", "gradient_sum", "preconditioned_sum", "class_counts")


def from_tensors(
    tensors: Mapping[str, Tensor], *, device: torch.device | str | None = None
) -> Anchor:
    """The anchor that :meth:`Anchor.to_tensors` wrote; on ``device`` when it is given.

    Anchors written before the state beside the step parameters was kept lack it; what no step
    moves then comes from the model at hand.
    """
    if missing := {*_TENSORS, "numbers"} - set(tensors):
        raise WrongOptions(f"not an anchor: {', '.join(sorted(missing))} missing")
    if device is not None:
        tensors = {name: t.to(device) for name, t in tensors.items()}
    count, training_loss, validation_loss = tensors["numbers"].tolist()
    factors = _under("curvature.", tensors)
    return Anchor(
        theta=tensors["theta"],
        gradient_sum=tensors["gradient_sum"],
        preconditioned_sum=tensors["preconditioned_sum"],
        class_counts=tensors["class_counts"].cpu(),
        count=int(count),
        training_loss=training_loss,
        validation_loss=validation_loss,
        curvature=kfac.from_tensors(factors) if factors else None,
        law=law.from_tensor(tensors["law"]) if "law" in tensors else None,
        unstepped=_under("unstepped.", tensors),
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Forgotten:
    """Running sums over all rows F forgotten since the anchor, all taken at θ₀.

    ``gradient_sum`` S_F and ``preconditioned_sum`` P·S_F (p,) float64, ``class_counts``
    (classes,) int64 on the CPU, ``count`` = |F|, ``loss_sum`` of the rows' losses at θ₀.
    """

    gradient_sum: Tensor
    preconditioned_sum: Tensor
    class_counts: Tensor
    count: int
    loss_sum: float

    def to_tensors(self) -> dict[str, Tensor]:
        """As tensors for a safetensors file; :func:`forgotten_from_tensors` reads them."""
        return {
            "gradient_sum": self.gradient_sum.cpu(),
            "preconditioned_sum": self.preconditioned_sum.cpu(),
            "class_counts": self.class_counts,
            "count": torch.tensor(self.count, dtype=torch.int64),
            "loss_sum": torch.tensor(self.loss_sum, dtype=torch.float64),
        }


def forgotten_from_tensors(
    tensors: Mapping[str, Tensor], *, device: torch.device | str | None = None
) -> Forgotten:
    """The running sums that :meth:`Forgotten.to_tensors` wrote; on ``device`` when it is given."""
    if missing := {f.name for f in fields(Forgotten)} - set(tensors):
        raise WrongOptions(f"not a forgotten set: {', '.join(sorted(missing))} missing")
    return Forgotten(
        tensors["gradient_sum"].to(device or tensors["gradient_sum"].device),
        tensors["preconditioned_sum"].to(device or tensors["preconditioned_sum"].device),
        tensors["class_counts"].cpu(),
        int(tensors["count"]),
        float(tensors["loss_sum"]),
    )


@dataclass(frozen=True)
class Direction:
    """A unit step direction δ (p,) float64 and its numbers.

    ``slope`` is g_f·δ, the rise of the mean forget loss per unit of strength; ``retain_weight``
    is c; ``length`` is ‖P(g_f − c·g_r)‖ before it was normalised.
    """

    delta: Tensor
    slope: float
    retain_weight: float
    length: float
    #: Strength of the influence itself, a Newton step for the retained mean: |F|/(n − |F|)·length.
    natural: float


def prepare(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    *,
    options: Preparation | None = None,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Anchor:
    """The anchor at the model's present weights, which ``train`` gave it.

    ``validation`` is the validation split and only that: rows that judge the result later must
    not set its target. The model is left as it was.
    """
    options = options or Preparation()
    if not len(train) or not len(validation):
        raise WrongOptions("an anchor needs at least one training and one validation row")
    gradient_sum, losses = objective.summed_gradient_and_losses(
        model, train, batch_size=options.batch_size, progress=lambda f: progress(0.5 * f)
    )
    held_out = objective.losses(model, validation, batch_size=options.batch_size)
    progress(0.55)
    curvature = None
    if options.preconditioner == "kfac":
        curvature = kfac.estimate(
            model,
            train.sample(options.curvature_rows, generator=generator),
            fisher=options.fisher,
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
    )
    progress(0.8)
    fitted = fit_law(
        anchor,
        model,
        train,
        losses,
        repeats=options.law_repeats,
        generator=generator,
        progress=lambda f: progress(0.8 + 0.2 * f),
    )
    progress(1.0)
    return replace(anchor, law=fitted)


def forget(
    anchor: Anchor, forgotten: Forgotten | None, model: nn.Module, examples: Examples
) -> Forgotten:
    """``forgotten`` with ``examples`` added: one gradient of the new rows and one solve.

    ``model`` may have any weights; the sums are taken at the anchor's. Whichever method removes
    rows from a version of this chain, they belong here: an anchored step starts from θ₀ again, and
    what it does not know of would come back.
    """
    base = at(anchor, model)
    gradient, losses = objective.summed_gradient_and_losses(base, examples)
    classes = len(anchor.class_counts)
    new = Forgotten(
        gradient,
        anchor.solve(gradient),
        torch.bincount(examples.labels.cpu(), minlength=classes),
        len(examples),
        float(losses.double().sum()),
    )
    if forgotten is None:
        return new
    return Forgotten(
        forgotten.gradient_sum + new.gradient_sum,
        forgotten.preconditioned_sum + new.preconditioned_sum,
        forgotten.class_counts + new.class_counts,
        forgotten.count + new.count,
        forgotten.loss_sum + new.loss_sum,
    )


def retain_gradient(anchor: Anchor, forgotten: Forgotten | None) -> Tensor:
    """Mean gradient of the retained rows at θ₀, (p,) float64, without looking at one of them."""
    if forgotten is None:
        return anchor.gradient_sum / anchor.count
    _check_count(anchor, forgotten)
    return (anchor.gradient_sum - forgotten.gradient_sum) / (anchor.count - forgotten.count)


def direction(anchor: Anchor, forgotten: Forgotten, *, preconditioned: bool = True) -> Direction:
    """δ = P(g_f − c·g_r) normalised, c = max(0, g_f·g_r/‖g_r‖²).

    c takes the part that forgotten and retained rows have in common out of the step. A constant c
    would let g_r dominate for single rows whose own gradient is tiny. Where the corrected step
    would no longer raise the forget loss (g_f·δ ≤ 0), c is 0.
    """
    _check_count(anchor, forgotten)
    kept = anchor.count - forgotten.count
    forget_mean = forgotten.gradient_sum / forgotten.count
    retain_mean = (anchor.gradient_sum - forgotten.gradient_sum) / kept
    step_forget, step_retain = forget_mean, retain_mean
    if preconditioned:
        step_forget = forgotten.preconditioned_sum / forgotten.count
        step_retain = (anchor.preconditioned_sum - forgotten.preconditioned_sum) / kept
    squared = float(retain_mean @ retain_mean)
    weight = max(0.0, float(forget_mean @ retain_mean) / squared) if squared > 0 else 0.0
    step = step_forget - weight * step_retain
    if float(forget_mean @ step) <= 0:
        weight, step = 0.0, step_forget
    length = float(torch.linalg.vector_norm(step))
    if not 0 < length < float("inf") or not float(forget_mean @ step) > 0:
        raise UnusableDirection(
            "the forgotten rows give a gradient that is zero or not finite, so there is no "
            "direction to step in; retrain the model without them"
        )
    delta = step / length
    return Direction(
        delta, float(forget_mean @ delta), weight, length, length * forgotten.count / kept
    )


def at(anchor: Anchor, model: nn.Module) -> nn.Module:
    """A copy of ``model`` as it was at the anchor, whatever has moved it since."""
    base = objective.at(model, anchor.theta)
    objective.restore(base, anchor.unstepped)
    return base


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
    """The law from size and slope to strength, fitted on pseudo-forget sets of training rows.

    ``losses`` (n,) are those of ``train`` at θ₀. None when there is no gap to close, or when too
    few sets could be brought to their target.
    """
    if not has_gap(anchor):
        return None
    sets = law.pseudo_sets(train.labels, losses, repeats=repeats, generator=generator)
    points = []
    walker = at(anchor, model)
    for i, (rows, weight) in enumerate(sets):
        point = _law_point(anchor, model, walker, train.subset(rows), weight, generator)
        points += [] if point is None else [point]
        progress((i + 1) / len(sets))
    return law.fit(points)


def has_gap(anchor: Anchor) -> bool:
    """Whether training rows are told apart by their loss: the gap is above 1 % of the loss."""
    return anchor.gap > 0.01 * anchor.validation_loss


def _law_point(
    anchor: Anchor,
    model: nn.Module,
    walker: nn.Module,
    rows: Examples,
    weight: float,
    generator: torch.Generator,
) -> law.Point | None:
    """The exact search's strength for one pseudo-forget set; None where it finds none."""
    try:
        chosen = forget(anchor, None, model, rows)
        step = direction(anchor, chosen)
    except UnusableDirection:
        return None
    goal = calibration.loss_goal(model, rows, gap=anchor.gap, rows=128, generator=generator)
    found = calibration.search(
        along(anchor, step, walker),
        goal=goal,
        start=0.5 * anchor.gap / step.slope,
        ceiling=ceiling(anchor),
    )
    if found.status != "reached" or not found.value > 0:
        return None
    return law.Point(len(rows), step.slope, found.value, weight)


def along(anchor: Anchor, step: Direction, walker: nn.Module) -> calibration.Apply:
    """Strength η → ``walker`` at θ₀ + η·δ, the same module every time."""
    delta = step.delta.to(anchor.theta.dtype)
    objective.restore(walker, anchor.unstepped)

    def apply(strength: float) -> nn.Module:
        objective.load(walker, anchor.theta + strength * delta)
        return walker

    return apply


def ceiling(anchor: Anchor) -> float:
    """Strength beyond which a step has nothing left of the model: its weights' whole norm."""
    return float(torch.linalg.vector_norm(anchor.theta))


def _check_count(anchor: Anchor, forgotten: Forgotten) -> None:
    if forgotten.gradient_sum.shape != anchor.gradient_sum.shape:
        raise WrongOptions("the running sums belong to another anchor")
    if forgotten.count >= anchor.count:
        raise WrongOptions("every row of the anchor is forgotten: nothing is left to retain")


def _checked(vector: Tensor) -> Tensor:
    if not bool(torch.isfinite(vector).all()):
        raise UnusableDirection(
            "the training gradient is not finite at the model's weights; train it again"
        )
    return vector


def _classes(model: nn.Module, train: Examples) -> int:
    return int(objective.logits(model, train.subset(torch.arange(1))).shape[1])
