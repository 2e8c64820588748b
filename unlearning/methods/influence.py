"""One Newton step towards the optimum of the retained rows, by conjugate gradients.

At an optimum of all rows the gradient of D_r is minus that of D_f, so the Newton step on D_r is

    θ′ = θ + (1/n_r) · (H + λI)⁻¹ Σ_{z ∈ D_f} ∇ℓ(z, θ),   H = mean over D_r of Jᵀ (∇²_f ℓ) J

with H the Gauss-Newton matrix (for cross-entropy the Fisher information), J the Jacobian of the
logits (n, classes) in the step parameters (p,). ``x`` (n, *shape), ``y`` (n,) int64. Koh and Liang,
Understanding Black-box Predictions via Influence Functions (2017), section 2.1 and appendix A;
Golatkar et al. (2020), section 4; Gauss-Newton by Martens (2010). Dividing by the retained count
n_r and taking H on D_r differs from the usual 1/n and H on D by a share |D_f|/n, and is exact for
a quadratic loss and λ = 0.

Batch-norm statistics are frozen, their affine parameters stay. H comes from a sample of D_r.

Guarantee: empirical. Exact for a quadratic loss at its optimum; on a network the direction is
right but the length is too small where it interpolates: ``strength="calibrated"`` searches it.
Records only: a whole class is no small perturbation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlearning.core import objective, ranks
from unlearning.core.examples import Examples
from unlearning.errors import UnusableDirection, WrongOptions
from unlearning.methods import _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records"})
GUARANTEE = "empirical"
COST = "step"

# Parts of PyTorch's messages about an operator whose backward pass has no derivative.
_ONLY_ONCE = ("derivative", "differentiate", "require grad", "not have been used in the graph")
_ADVICE = (
    "influence differentiates the network twice, and an operator in it can be differentiated only "
    "once: choose another method, or write its backward pass in differentiable operations"
)

#: Per-example training loss (n,) from outputs (n, classes) and labels (n,).
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Options(_strength.Options):
    """Damping 1e-3."""

    damping: Annotated[float, Ge(0), Le(1000)] = 1e-3
    #: Conjugate-gradient iterations, at most, and the relative residual that ends them.
    iterations: Annotated[int, Ge(1), Le(10_000)] = 50
    residual: Annotated[float, Gt(0), Le(1)] = 1e-3
    #: Retained rows that H is estimated from, at most.
    curvature_rows: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 500


@dataclass(frozen=True)
class Solution:
    """x ≈ A⁻¹b (p,), the iterations it took and the relative residual ‖b − Ax‖/‖b‖."""

    x: Tensor
    iterations: int
    residual: float


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model moved by the estimated influence of ``forget``."""
    _strength.check(forget, retain)
    rows = retain.sample(options.curvature_rows, generator=generator)
    solution = step(
        model,
        forget,
        rows,
        retained=len(retain),
        loss=context.training_loss,
        options=options,
        progress=context.progress,
    )
    start = objective.flatten(model)
    moved = objective.at(model, start + solution.x.to(start)).eval()
    notes: dict[str, Any] = {"cg_iterations": solution.iterations, "cg_residual": solution.residual}
    if options.strength == "authors":
        notes["strength"] = "authors"
        return Update(model=_strength.checked(moved), notes=notes)
    aim = _strength.aim(
        model, forget, retain, options=options, context=context, generator=generator
    )
    update = _strength.search(_strength.chord(model, moved), aim=aim)
    return replace(update, notes={**update.notes, **notes})


def step(
    model: nn.Module,
    forget: Examples,
    rows: Examples,
    *,
    retained: int,
    loss: Loss,
    options: Options,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Solution:
    """Return θ′ − θ (p,): H from ``rows``, the gradient of ``forget``, over ``retained`` rows."""
    network = copy.deepcopy(model).eval()
    gradient = _summed_gradient(network, forget, loss, options.batch_size)
    if not gradient.isfinite().all() or not gradient.any():
        raise UnusableDirection("the gradient of the rows to forget is zero or not finite; retrain")
    _check(network, forget, loss, options.batch_size)

    def damped(v: Tensor) -> Tensor:
        product = gauss_newton_product(network, rows, v, loss=loss, batch_size=options.batch_size)
        return product + options.damping * v

    return conjugate_gradients(
        damped,
        gradient / retained,
        iterations=options.iterations,
        residual=options.residual,
        progress=progress,
    )


def gauss_newton_product(
    network: nn.Module, rows: Examples, v: Tensor, *, loss: Loss, batch_size: int
) -> Tensor:
    """Return H·v (p,), H the mean over ``rows`` of Jᵀ (∇²_f ℓ) J, network in evaluation mode.

    J·v is the derivative of u ↦ Jᵀu contracted with v, so reverse mode is enough: forward-mode
    rules are missing for some operators. Jᵀ is differentiated for that, so attention takes its
    plain form: the fused kernels have no second derivative.
    """
    parameters = list(objective.step_parameters(network).values())
    pieces = list(objective.unflatten(v, network).values())
    total = torch.zeros_like(v)
    division = ranks.by_batches(len(rows), batch_size)
    for x, y in division.part(rows).batches(batch_size, device=v.device):
        with sdpa_kernel(SDPBackend.MATH):
            outputs = network(x)
        pushed = _pushed(outputs, parameters, pieces)
        curved = _curved(outputs.detach(), y, pushed, loss)
        back = torch.autograd.grad(
            outputs, parameters, curved, allow_unused=True, materialize_grads=True
        )
        total += torch.cat([g.reshape(-1) for g in back])
    (total,) = division.summed([total])
    return total / len(rows)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    iterations: int,
    residual: float,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Solution:
    """Solve A·x = b (p,) for a symmetric positive definite A given as a product."""
    x, r = torch.zeros_like(b), b.clone()
    direction, squared = r.clone(), r @ r
    first = squared
    done = 0
    while done < iterations and squared > residual**2 * first:
        curved = product(direction)
        length = squared / (direction @ curved)
        x += length * direction
        r -= length * curved
        previous, squared = squared, r @ r
        direction = r + (squared / previous) * direction
        done += 1
        progress(done / iterations)
    return Solution(x, done, float((squared / first).sqrt()))


def _pushed(outputs: Tensor, parameters: list[nn.Parameter], v: list[Tensor]) -> Tensor:
    """Return J·v of every row, (n, classes), with ``v`` in the shapes of the parameters."""
    u = torch.zeros_like(outputs, requires_grad=True)
    try:
        pulled = torch.autograd.grad(outputs, parameters, u, create_graph=True, allow_unused=True)
        # Parameters that do not affect the outputs have no curvature.
        used = [(p, v_p) for p, v_p in zip(pulled, v, strict=True) if p is not None]
        pushed = torch.autograd.grad(
            [p for p, _ in used], u, [v_p for _, v_p in used], retain_graph=True
        )
    except RuntimeError as error:
        # Running out of memory is a RuntimeError, too, and other options would not help.
        if not any(said in str(error) for said in _ONLY_ONCE):
            raise
        raise WrongOptions(_ADVICE) from error
    return pushed[0]


def _check(network: nn.Module, examples: Examples, loss: Loss, batch_size: int) -> None:
    """Raise ``WrongOptions`` for a network whose J·v leaves parameters out.

    An operator that can be differentiated only once need not raise: its part of J·v is then
    silently missing. It is detected along the gradient g of the loss, with s its slope at the
    outputs: ⟨J·g, s⟩ = ⟨g, Jᵀs⟩ = ‖g‖².
    """
    parameters = list(objective.step_parameters(network).values())
    x, y = next(examples.batches(batch_size, device=parameters[0].device))
    with sdpa_kernel(SDPBackend.MATH):
        outputs = network(x)
    at = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(at, y).sum(), at)
    g = torch.autograd.grad(
        outputs, parameters, slope, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    along = float((_pushed(outputs, parameters, list(g)) * slope).sum())
    squared = sum(float(part.square().sum()) for part in g)
    if abs(along - squared) > 0.01 * squared:
        raise WrongOptions(_ADVICE)


def _curved(outputs: Tensor, y: Tensor, v: Tensor, loss: Loss) -> Tensor:
    """Return (∇²_f ℓ)·v of every row, (n, classes)."""
    at = outputs.requires_grad_()
    (slope,) = torch.autograd.grad(loss(at, y).sum(), at, create_graph=True)
    (curved,) = torch.autograd.grad(slope, at, v)
    return curved


def _summed_gradient(network: nn.Module, examples: Examples, loss: Loss, batch_size: int) -> Tensor:
    parameters = list(objective.step_parameters(network).values())
    total = torch.cat([torch.zeros_like(p).reshape(-1) for p in parameters])
    division = ranks.by_batches(len(examples), batch_size)
    for x, y in division.part(examples).batches(batch_size, device=total.device):
        grads = torch.autograd.grad(
            loss(network(x), y).sum(), parameters, allow_unused=True, materialize_grads=True
        )
        total += torch.cat([g.reshape(-1) for g in grads])
    (total,) = division.summed([total])
    return total
