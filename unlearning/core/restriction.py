"""Gradients of a mini-batch's training loss, with the gradient restriction.

The restricted loss is ℓ + α·‖∇ℓ‖ over the mini-batch's gradient (gradient restriction,
arXiv 2507.23257): examples with a small gradient leave less to undo when they must be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from unlearning.core import task
from unlearning.core.recipe import Recipe
from unlearning.core.task import TrainingLoss


def restricted_gradients(
    model: nn.Module, x: Tensor, y: Tensor, *, recipe: Recipe, loss: TrainingLoss = task.PLAIN
) -> tuple[Tensor, list[Tensor]]:
    """Return the mini-batch's mean training loss, and gradients of it plus α·‖gradient‖.

    One gradient for each trained parameter. With v = g/‖g‖ (joint) or the concatenation of gₖ/‖gₖ‖
    (per tensor), the restriction's gradient is the Hessian-vector product ∇²L·v: by a second
    backward pass, or as (∇L(θ + r·v) − ∇L(θ))/r.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not recipe.alpha:
        with precision(recipe, x.device):
            mean = loss(model(x), y).mean()
        return mean.detach(), _gradients(mean, parameters)
    if recipe.restriction == "double_backward":
        return _by_double_backward(model, x, y, parameters, recipe, loss)
    return _by_finite_difference(model, x, y, parameters, recipe, loss)


def precision(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass: mixed precision if the recipe and the device have it.

    bfloat16 has the range of float32, so that gradients need no scaling.
    """
    if recipe.precision == "full" or device.type != "cuda" or not torch.cuda.is_bf16_supported():
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _gradients(mean: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(mean, parameters, allow_unused=True, materialize_grads=True))


def _by_double_backward(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    parameters: list[Tensor],
    recipe: Recipe,
    loss: TrainingLoss,
) -> tuple[Tensor, list[Tensor]]:
    mean = loss(model(x), y).mean()
    grads = torch.autograd.grad(
        mean, parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    norms = torch.stack([torch.linalg.vector_norm(g) for g in grads])
    restriction = norms.sum() if recipe.norm == "per_tensor" else torch.linalg.vector_norm(norms)
    return mean.detach(), _gradients(mean + recipe.alpha * restriction, parameters)


def _by_finite_difference(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    parameters: list[Tensor],
    recipe: Recipe,
    loss: TrainingLoss,
) -> tuple[Tensor, list[Tensor]]:
    states = _random_states(model, x)
    mean = loss(model(x), y).mean()
    grads = _gradients(mean, parameters)
    norms = torch.stack(torch._foreach_norm(grads))
    if recipe.norm == "joint":
        norms = torch.linalg.vector_norm(norms).expand(len(grads))
    # A zero gradient has no direction: dividing by infinity gives zero.
    scales = torch.where(norms > 0, norms, torch.inf).reciprocal()
    direction = torch._foreach_mul(grads, list(scales.unbind()))
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(parameters, direction, alpha=recipe.radius)
    try:
        # Both passes must drop the same units, or the difference would measure the dropout.
        for restore, state in states:
            restore(state)
        with _statistics_kept(model):
            moved = _gradients(loss(model(x), y).mean(), parameters)
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)
    # g + α·(g' − g)/r
    weight = recipe.alpha / recipe.radius
    torch._foreach_mul_(grads, 1 - weight)
    torch._foreach_add_(grads, moved, alpha=weight)
    return mean.detach(), grads


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Keep running batch-norm statistics unchanged by forward passes in train mode."""
    layers = [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats
    ]
    kept = [
        (m.momentum, None if (c := m.num_batches_tracked) is None else c.clone()) for m in layers
    ]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, kept, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)


def _random_states(model: nn.Module, x: Tensor) -> list[tuple[Callable[[Tensor], None], Tensor]]:
    """Return the states of the generators from which dropout draws; empty without dropout."""
    if not any(isinstance(m, nn.modules.dropout._DropoutNd) for m in model.modules()):
        return []
    states: list[tuple[Callable[[Tensor], None], Tensor]] = [
        (torch.set_rng_state, torch.get_rng_state())
    ]
    if x.is_cuda:
        states.append((torch.cuda.set_rng_state, torch.cuda.get_rng_state(x.device)))
    return states
