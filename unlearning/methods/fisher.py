"""Noise in the weights that the retained rows do not pin down.

    θ′ ~ N(θ, α · min((F + 1e-8)⁻¹, v)),   F = E_{x ∈ D_r} Σ_y p(y|x)·(∂ log p(y|x)/∂θ)²

``x`` (n, *shape), logits (n, classes), F in each parameter's shape. Golatkar et al., Eternal
Sunshine of the Spotless Net: Selective Forgetting in Deep Networks (2020), section 4, equation 9,
with the diagonal of F and the bound v of their program. Two deviations: F is the mean over a sample
of D_r (256 rows unless ``fisher_rows`` says otherwise) where the paper takes all of it, and the
program's special treatment of the head's row when a class is forgotten is left out.

The calibrated family keeps one draw of the noise and scales it: strength s has variance s²·α.

Guarantee: empirical. The paper bounds the information left about D_f for a quadratic loss with the
exact F of the optimum on D_r; for a diagonal F at θ, far from a quadratic, the bound does not hold.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from unlearning.core.examples import Examples
from unlearning.methods import _squared_gradients, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "step"


@dataclass(frozen=True, kw_only=True)
class Options(_strength.Options):
    """The authors sweep α from 1e-9 to 1e-6."""

    alpha: Annotated[float, Gt(0), Le(1)] = 1e-7
    #: Bound v on the inverse, without which a dead weight would get any noise.
    largest: Annotated[float, Gt(0), Le(1e12)] = 1e3
    #: Retained rows that F is estimated from, at most.
    fisher_rows: Annotated[int, Ge(1), Le(1_000_000)] = 256


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model with noise in directions that hardly affect ``retain``."""
    _strength.check(forget, retain)
    rows = retain.sample(options.fisher_rows, generator=generator)
    information = _squared_gradients.expected(model, rows)
    context.progress(0.9)
    noisy = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, p in noisy.named_parameters():
            p.add_(deviation(information[name], options=options) * _normal(p, generator))
    if options.strength == "authors":
        notes = {"strength": "authors", "alpha": options.alpha}
        return Update(model=_strength.checked(noisy), notes=notes)
    aim = _strength.aim(
        model, forget, retain, options=options, context=context, generator=generator
    )
    return _strength.search(_strength.chord(model, noisy), aim=aim)


def deviation(information: Tensor, *, options: Options) -> Tensor:
    """Return the standard deviation of the noise on a parameter, in its shape."""
    return (options.alpha * (1 / (information + 1e-8)).clamp(max=options.largest)).sqrt()


def _normal(p: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(p.shape, generator=generator).to(p)
