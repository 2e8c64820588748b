"""Dampen the weights that matter far more to the rows to forget than to all rows.

    F = E over D of (∂ℓ/∂θ)²,  F_f = E over D_f of (∂ℓ/∂θ)²
    θ ← θ · min(1, λ·F/F_f)   where F_f > α·F

``x`` (n, *shape), ``y`` (n,) int64, logits (n, classes), F and F_f in each parameter's shape.
Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening
(2024), section 3, equations 4 to 6. F comes from per-example gradients, as in the paper, on a
sample of D; the authors' program squares the gradients of mini-batches.

The calibrated family multiplies F_f by the strength: more weights are chosen, and chosen ones are
dampened more. The line from θ₀ to the dampened weights would not reach beyond them.

Guarantee: empirical. It assumes that D_f affected weights of its own; rows that resemble retained
ones have none, and then nothing, or too much, is dampened.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from unlearning.anchored import calibration
from unlearning.core.examples import Examples, concatenate
from unlearning.methods import _squared_gradients, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "step"


@dataclass(frozen=True, kw_only=True)
class Options(_strength.Options):
    """Selection weight α = 10, dampening constant λ = 1."""

    alpha: Annotated[float, Gt(0), Le(1e6)] = 10.0
    dampening: Annotated[float, Gt(0), Le(1e6)] = 1.0
    #: Rows that each importance is estimated from, at most.
    importance_rows: Annotated[int, Ge(1), Le(1_000_000)] = 2000


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model with those weights dampened that matter most to ``forget``."""
    _strength.check(forget, retain)
    rows = options.importance_rows
    everything = concatenate(retain, forget).sample(rows, generator=generator)
    to_all = _squared_gradients.empirical(model, everything)
    context.progress(0.5)
    to_forget = _squared_gradients.empirical(model, forget.sample(rows, generator=generator))
    context.progress(0.9)
    apply = _family(model, to_all, to_forget, options)
    if options.strength == "authors":
        dampened = copy.deepcopy(apply(1.0))
        chosen = sum(int((f > options.alpha * to_all[name]).sum()) for name, f in to_forget.items())
        return Update(
            model=_strength.checked(dampened),
            notes={"strength": "authors", "weights_dampened": chosen},
            retrain_because=() if chosen else ("no weight matters enough to be dampened",),
        )
    aim = _strength.aim(
        model, forget, retain, options=options, context=context, generator=generator
    )
    return _strength.search(apply, aim=aim)


def factor(to_all: Tensor, to_forget: Tensor, *, options: Options) -> Tensor:
    """Return what each weight is multiplied by, in its shape: below 1 where it is dampened."""
    chosen = to_forget > options.alpha * to_all
    # Only chosen entries are divided, and their F_f is above zero.
    dampened = options.dampening * to_all / torch.where(chosen, to_forget, 1.0)
    return torch.where(chosen, dampened.clamp(max=1.0), 1.0)


def _family(
    model: nn.Module, to_all: dict[str, Tensor], to_forget: dict[str, Tensor], options: Options
) -> calibration.Apply:
    network = copy.deepcopy(model).eval()
    start = dict(model.named_parameters())

    @torch.no_grad()
    def apply(strength: float) -> nn.Module:
        for name, p in network.named_parameters():
            p.copy_(start[name])
            p.mul_(factor(to_all[name], strength * to_forget[name], options=options))
        return network

    return apply
