"""The anchor: the weights θ₀ of a training, with the quantities that a step from them needs.

A chain of unlearned versions always steps from its anchor with everything forgotten since, so the
result does not depend on the order or the grouping of the batches. The gradients of all training
rows are summed once; then a batch costs the gradient of its own rows and one solve, because the
retained rows' gradient is the sum minus that of the forgotten rows.

An anchor and its running sums contain the forgotten rows' influence. They are internal state, to be
destroyed at the next retraining, and never served. ``preparation`` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from unlearning.anchored import calibration, law
from unlearning.anchored.law import Law
from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.core.task import TrainingLoss
from unlearning.curvature import kfac
from unlearning.curvature.kfac import Kfac
from unlearning.errors import UnusableDirection, WrongOptions

#: In single precision a gradient with a smaller 1 − p is mostly rounding; its weight is bounded.
_LEAST_DOUBT = 1e-4
#: Damping of a Newton step of natural length, relative to that of a step of searched length.
_NEWTON_DAMPING = 10


@dataclass(frozen=True)
class Anchor:
    """θ₀ and its cached quantities; vectors are over the step parameters.

    ``theta`` (p,), ``gradient_sum`` Σ_D ∇ℓ(θ₀) (p,) float64, ``preconditioned_sum`` P·Σ (p,)
    float64, ``class_counts`` (classes,) int64 on the CPU, ``count`` = |D|, mean losses at θ₀.

    ``evenness`` γ in [0, 1] says how evenly the forgotten rows push a step: a row has the weight
    (1 − p)^−γ, p the probability that θ₀ gives its label. A row's gradient is proportional to
    1 − p. With γ = 0 rows that were hardly memorised dominate, and memorised ones stay where they
    are; with γ = 1 all rows count the same, also those that would be easy had they never been seen.

    ``unstepped`` (name → tensor) is the rest of the model's state at θ₀, such as batch-norm
    statistics: other methods change it, and the same weights with another rest are another model.

    ``loss`` is what the training minimised: the gradients are of it, because it is its sum that θ₀
    nearly minimises. Losses, their gap and the weights of rows are of the loss itself.
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
    evenness: float = 0.0
    unstepped: Mapping[str, Tensor] = field(default_factory=dict)
    loss: TrainingLoss = task.PLAIN

    @property
    def gap(self) -> float:
        """Generalisation gap: mean validation loss minus mean training loss."""
        return self.validation_loss - self.training_loss

    def solve(self, vector: Tensor) -> Tensor:
        """Return P·``vector``, (p,), P the damped inverse curvature (the identity without one)."""
        return vector if self.curvature is None else self.curvature.solve(vector)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return CPU tensors for a safetensors file; :func:`from_tensors` reads them."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        numbers = [float(self.count), self.training_loss, self.validation_loss, self.evenness]
        tensors["numbers"] = torch.tensor(numbers, dtype=torch.float64)
        if self.curvature is not None:
            factors = self.curvature.to_tensors()
            tensors |= {f"curvature.{name}": t for name, t in factors.items()}
        if self.law is not None:
            tensors["law"] = self.law.to_tensor()
        tensors |= {f"unstepped.{name}": t for name, t in self.unstepped.items()}
        tensors |= {f"loss.{name}": t for name, t in self.loss.to_tensors().items()}
        return {name: t.cpu().contiguous() for name, t in tensors.items()}


_TENSORS = ("theta", "gradient_sum", "preconditioned_sum", "class_counts")


def from_tensors(
    tensors: Mapping[str, Tensor], *, device: torch.device | str | None = None
) -> Anchor:
    """Return the anchor that :meth:`Anchor.to_tensors` wrote; on ``device`` when it is given.

    Old anchors lack the state besides the step parameters, which is then that of the present model.
    Older ones lack weights of rows, which are then all 1.
    """
    if missing := {*_TENSORS, "numbers"} - set(tensors):
        raise WrongOptions(f"not an anchor: {', '.join(sorted(missing))} missing")
    if device is not None:
        tensors = {name: t.to(device) for name, t in tensors.items()}
    count, training_loss, validation_loss, *evenness = tensors["numbers"].tolist()
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
        evenness=evenness[0] if evenness else 0.0,
        unstepped=_under("unstepped.", tensors),
        loss=task.training_loss_from_tensors(_under("loss.", tensors)),
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Forgotten:
    """Running sums over all rows F forgotten since the anchor, all computed at θ₀.

    ``gradient_sum`` S_F and ``preconditioned_sum`` P·S_F (p,) float64, ``class_counts``
    (classes,) int64 on the CPU, ``count`` = |F|, ``loss_sum`` of the rows' losses at θ₀.

    ``push_sum`` W_F = Σ w·∇ℓ and ``preconditioned_push_sum`` P·W_F (p,) float64 are the same with
    each row's weight w = (1 − p)^−γ, ``weight_sum`` = Σ w.
    """

    gradient_sum: Tensor
    preconditioned_sum: Tensor
    push_sum: Tensor
    preconditioned_push_sum: Tensor
    weight_sum: float
    class_counts: Tensor
    count: int
    loss_sum: float

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors for a safetensors file; :func:`forgotten_from_tensors` reads them.

        Where every weight is 1, the sums are written once.
        """
        weighted = self.weight_sum != self.count
        written = {name: getattr(self, name).cpu() for name in _SUMS + _PUSHES * weighted}
        if weighted:
            written["weight_sum"] = torch.tensor(self.weight_sum, dtype=torch.float64)
        return written | {
            "class_counts": self.class_counts,
            "count": torch.tensor(self.count, dtype=torch.int64),
            "loss_sum": torch.tensor(self.loss_sum, dtype=torch.float64),
        }


_SUMS = ("gradient_sum", "preconditioned_sum")
_PUSHES = ("push_sum", "preconditioned_push_sum")


def forgotten_from_tensors(
    tensors: Mapping[str, Tensor], *, device: torch.device | str | None = None
) -> Forgotten:
    """Return the sums that :meth:`Forgotten.to_tensors` wrote; on ``device`` when it is given.

    Without weights in the file every weight is 1.
    """
    if missing := {*_SUMS, "class_counts", "count", "loss_sum"} - set(tensors):
        raise WrongOptions(f"not a forgotten set: {', '.join(sorted(missing))} missing")
    weighted = "weight_sum" in tensors

    def there(name: str) -> Tensor:
        tensor = tensors[name]
        return tensor.to(device or tensor.device)

    push, solved_push = _PUSHES if weighted else _SUMS
    return Forgotten(
        gradient_sum=there("gradient_sum"),
        preconditioned_sum=there("preconditioned_sum"),
        push_sum=there(push),
        preconditioned_push_sum=there(solved_push),
        weight_sum=float(tensors["weight_sum" if weighted else "count"]),
        class_counts=tensors["class_counts"].cpu(),
        count=int(tensors["count"]),
        loss_sum=float(tensors["loss_sum"]),
    )


@dataclass(frozen=True)
class Direction:
    """A unit step direction δ (p,) float64 and its numbers.

    ``slope`` is g_f·δ, the rise of the mean forget loss per unit of strength; ``retain_weight``
    is c; ``length`` is ‖P(g_w − c·g_r)‖ before it was normalised.
    """

    delta: Tensor
    slope: float
    retain_weight: float
    length: float
    #: Strength of a Newton step for the retained mean, |F|/(n − |F|)·length (see ``newton``).
    natural: float


def forget(
    anchor: Anchor, forgotten: Forgotten | None, model: nn.Module, examples: Examples
) -> Forgotten:
    """Return ``forgotten`` with ``examples`` added, by one gradient of the new rows and one solve.

    ``model`` may have any weights; the sums are computed at the anchor's. Rows must be added
    whichever method removes them from a version of this chain: an anchored step starts from θ₀
    again, and rows that it does not know of would come back.
    """
    base = at(anchor, model)

    def weigh(losses: Tensor) -> Tensor:
        doubts = -torch.expm1(-losses)  # 1 − p
        return doubts.clamp_min(_LEAST_DOUBT) ** -anchor.evenness

    if anchor.evenness:
        gradient, push, losses = objective.weighted_gradient(
            base, examples, weigh, loss=anchor.loss
        )
    else:
        gradient, losses = objective.summed_gradient_and_losses(base, examples, loss=anchor.loss)
        push = gradient
    solved = anchor.solve(gradient)
    new = Forgotten(
        gradient,
        solved,
        push,
        anchor.solve(push) if anchor.evenness else solved,
        weight_sum=float(weigh(losses).double().sum()),
        class_counts=torch.bincount(examples.labels.cpu(), minlength=len(anchor.class_counts)),
        count=len(examples),
        loss_sum=float(losses.double().sum()),
    )
    if forgotten is None:
        return new
    return Forgotten(
        **{f.name: getattr(forgotten, f.name) + getattr(new, f.name) for f in fields(Forgotten)}
    )


def retain_gradient(anchor: Anchor, forgotten: Forgotten | None) -> Tensor:
    """Return the mean gradient of the retained rows at θ₀, (p,) float64, without reading them."""
    if forgotten is None:
        return anchor.gradient_sum / anchor.count
    _check_count(anchor, forgotten)
    return (anchor.gradient_sum - forgotten.gradient_sum) / (anchor.count - forgotten.count)


def direction(
    anchor: Anchor, forgotten: Forgotten, *, preconditioned: bool = True, evenly: bool = True
) -> Direction:
    """Return the unit vector δ ∝ P(g_w − c·g_r), c = max(0, g_w·g_r/‖g_r‖²).

    g_w is the mean gradient of the forgotten rows, weighted by ``Anchor.evenness``, or, not
    ``evenly``, g_f itself. c removes from the step the component that g_w shares with the retained
    rows' gradient; with a constant c, g_r would dominate for single rows with a tiny gradient. If
    the step would not raise the mean forget loss (g_f·δ ≤ 0), c is 0, or every weight 1, or both.
    """
    _check_count(anchor, forgotten)
    kept = anchor.count - forgotten.count
    retain = (anchor.gradient_sum - forgotten.gradient_sum) / kept
    step_retain = retain
    if preconditioned:
        step_retain = (anchor.preconditioned_sum - forgotten.preconditioned_sum) / kept
    mean = forgotten.gradient_sum / forgotten.count
    squared = float(retain @ retain)

    def first_rising(*sums: tuple[Tensor, Tensor, float]) -> tuple[float, Tensor]:
        """Return c and the step of the first of these sums, corrected or not, to raise the loss."""
        weight, step = 0.0, mean
        for push, solved, total in sums:
            common = max(0.0, float(push @ retain) / total / squared) if squared > 0 else 0.0
            for weight in (common, 0.0):
                step = (solved if preconditioned else push) / total - weight * step_retain
                if float(mean @ step) > 0:
                    return weight, step
        return weight, step

    plain = forgotten.gradient_sum, forgotten.preconditioned_sum, float(forgotten.count)
    even = forgotten.push_sum, forgotten.preconditioned_push_sum, forgotten.weight_sum
    weight, step = first_rising(even, plain) if evenly else first_rising(plain)
    length = _length(step)
    if not 0 < length < float("inf") or not float(mean @ step) > 0:
        raise UnusableDirection(
            "the forgotten rows give a gradient that is zero or not finite, so there is no "
            "direction to step in; retrain the model without them"
        )
    delta = step / length
    return Direction(delta, float(mean @ delta), weight, length, length * forgotten.count / kept)


def newton(anchor: Anchor, forgotten: Forgotten) -> Direction:
    """Return the unweighted influence step with its natural length, under more damping.

    A step of searched length only takes its direction from the curvature. If it also took its
    length from there, directions with almost no curvature would make the step far too long.
    """
    if anchor.curvature is None:
        return direction(anchor, forgotten, preconditioned=False, evenly=False)
    stiff = replace(anchor.curvature, damping=_NEWTON_DAMPING * anchor.curvature.damping)
    return direction(
        replace(anchor, preconditioned_sum=stiff.solve(anchor.gradient_sum)),
        replace(forgotten, preconditioned_sum=stiff.solve(forgotten.gradient_sum)),
        evenly=False,
    )


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))


def at(anchor: Anchor, model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` with the anchor's weights, whatever changed them since."""
    base = objective.at(model, anchor.theta)
    objective.restore(base, anchor.unstepped)
    return base


def has_gap(anchor: Anchor) -> bool:
    """Return whether training rows have a lower loss: the gap is above 1 % of the loss."""
    return anchor.gap > 0.01 * anchor.validation_loss


def along(anchor: Anchor, step: Direction, walker: nn.Module) -> calibration.Apply:
    """Return a function from the strength η to ``walker`` at θ₀ + η·δ, always the same module."""
    delta = step.delta.to(anchor.theta.dtype)
    objective.restore(walker, anchor.unstepped)

    def apply(strength: float) -> nn.Module:
        objective.load(walker, anchor.theta + strength * delta)
        return walker

    return apply


def ceiling(anchor: Anchor) -> float:
    """Return the upper bound of the step length, ‖θ₀‖."""
    return _length(anchor.theta)


def _check_count(anchor: Anchor, forgotten: Forgotten) -> None:
    if forgotten.gradient_sum.shape != anchor.gradient_sum.shape:
        raise WrongOptions("the running sums belong to another anchor")
    if forgotten.count >= anchor.count:
        raise WrongOptions("every row of the anchor is forgotten: nothing is left to retain")
