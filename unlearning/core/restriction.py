"""Gradients of a mini-batch's training loss, with the gradient restriction.

The restricted loss is ℓ + α·‖∇ℓ‖ over the mini-batch's gradient (gradient restriction,
arXiv 2507.23257): examples with a small gradient leave less to undo when they must be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.core import task
from unlearning.core.ranks import Division
from unlearning.core.recipe import Recipe
from unlearning.core.task import TrainingLoss

_WHOLE = Division()


def restricted_gradients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    recipe: Recipe,
    loss: TrainingLoss = task.PLAIN,
    division: Division = _WHOLE,
) -> tuple[Tensor, list[Tensor]]:
    """Return the mini-batch's mean training loss, and gradients of it plus α·‖gradient‖.

    One gradient for each trained parameter. With v = g/‖g‖ (joint) or the concatenation of gₖ/‖gₖ‖
    (per tensor), the restriction's gradient is the Hessian-vector product ∇²L·v: by a second
    backward pass, or as (∇L(θ + r·v) − ∇L(θ))/r.

    If the mini-batch is divided, ``x`` and ``y`` are this rank's part of it, which may be empty,
    and mean and gradients are those of the whole mini-batch, on every rank.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    batch = _Batch(model, x, y, parameters, loss, division)
    if not recipe.alpha:
        with precision(recipe, x.device):
            mean = batch.mean()
        return batch.united(mean.detach(), batch.gradients(mean))
    if recipe.restriction == "double_backward":
        return _by_double_backward(batch, recipe)
    return _by_finite_difference(batch, recipe)


def precision(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of a forward pass: mixed precision if the recipe and the device have it.

    bfloat16 has the range of float32, so that gradients need no scaling.
    """
    if recipe.precision == "full" or device.type != "cuda" or not torch.cuda.is_bf16_supported():
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@dataclass(frozen=True)
class _Batch:
    """This rank's part of a mini-batch, and what is minimised on it."""

    model: nn.Module
    x: Tensor
    y: Tensor
    parameters: list[Tensor]
    loss: TrainingLoss
    division: Division

    def mean(self) -> Tensor:
        """Return the mean training loss of the part; without rows 0, which has no gradient."""
        if not len(self.y):
            return self.parameters[0].new_zeros((), requires_grad=True)
        return self.loss(self.model(self.x), self.y).mean()

    def gradients(self, mean: Tensor, *, create_graph: bool = False) -> list[Tensor]:
        """Return the gradient of ``mean`` for each parameter."""
        return list(
            torch.autograd.grad(
                mean,
                self.parameters,
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        )

    def united(self, mean: Tensor, grads: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the whole mini-batch's mean and gradients, each rank weighted by its rows."""
        if not self.division.bounds:
            return mean, grads
        share = self.division.share()
        mean, *grads = self.division.summed([share * one.detach() for one in (mean, *grads)])
        return mean, grads


def _by_double_backward(batch: _Batch, recipe: Recipe) -> tuple[Tensor, list[Tensor]]:
    mean = batch.mean()
    grads = batch.gradients(mean, create_graph=True)
    if not batch.division.bounds:
        norms = torch.stack([torch.linalg.vector_norm(g) for g in grads])
        restriction = (
            norms.sum() if recipe.norm == "per_tensor" else torch.linalg.vector_norm(norms)
        )
        return mean.detach(), batch.gradients(mean + recipe.alpha * restriction)
    # The norm's gradient is ∇²L·v, to which each rank adds the product with its own part of ∇²L.
    _, whole = batch.united(mean, grads)
    along = [(g * v).sum() for g, v in zip(grads, _direction(whole, recipe), strict=True)]
    restricted = mean + recipe.alpha * torch.stack(along).sum()
    return batch.united(mean.detach(), batch.gradients(restricted))


def _direction(grads: list[Tensor], recipe: Recipe) -> list[Tensor]:
    """Return v: the gradients divided by their norms, or by the norm of all of them."""
    norms = torch.stack(torch._foreach_norm(grads))
    if recipe.norm == "joint":
        norms = torch.linalg.vector_norm(norms).expand(len(grads))
    # A zero gradient has no direction: dividing by infinity gives zero.
    scales = torch.where(norms > 0, norms, torch.inf).reciprocal()
    return list(torch._foreach_mul(grads, list(scales.unbind())))


def _by_finite_difference(batch: _Batch, recipe: Recipe) -> tuple[Tensor, list[Tensor]]:
    parameters = batch.parameters
    states = _random_states(batch.model, batch.x)
    mean = batch.mean()
    mean, grads = batch.united(mean.detach(), batch.gradients(mean))
    direction = _direction(grads, recipe)
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(parameters, direction, alpha=recipe.radius)
    try:
        # Both passes must drop the same units, or the difference would measure the dropout.
        for restore, state in states:
            restore(state)
        with _statistics_kept(batch.model):
            ahead = batch.mean()
            _, moved = batch.united(ahead.detach(), batch.gradients(ahead))
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)
    # g + α·(g' − g)/r
    weight = recipe.alpha / recipe.radius
    torch._foreach_mul_(grads, 1 - weight)
    torch._foreach_add_(grads, moved, alpha=weight)
    return mean, grads


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
