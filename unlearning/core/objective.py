"""Per-example loss, gradients summed over a stream of data, and the parameters of a step.

A gradient is that of the loss, unless the training loss is given that a recipe minimises; losses
and their weights are always the loss itself.

Everything is computed in evaluation mode: batch-norm statistics are frozen, dropout is off. In
train mode the gradients of a batch-norm network differ (its examples influence each other), and
computing them would change the running statistics.

Several :mod:`ranks` divide the mini-batches among them; each receives the whole result.

The *step parameters* are what an unlearning step may move: every trainable parameter except the
affine parameters of batch and instance normalisation. A step is one flat vector (p,) over them, in
the order of ``model.named_parameters()``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from unlearning.core import ranks, task
from unlearning.core.examples import Examples
from unlearning.core.task import TrainingLoss
from unlearning.errors import WrongOptions

#: Examples per pass. The activations of more no longer fit into a CPU's cache: 1,024 took 1.6 times
#: as long per example as 256 (LeNet-5, CIFAR-10).
BATCH = 256

Module = TypeVar("Module", bound=nn.Module)


def summed_gradient(
    model: nn.Module,
    examples: Examples,
    *,
    loss: TrainingLoss = task.PLAIN,
    batch_size: int = BATCH,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Tensor:
    """Return Σᵢ ∇ℓ(zᵢ, θ) over the step parameters, (p,) float64; the model is not changed."""
    return summed_gradient_and_losses(
        model, examples, loss=loss, batch_size=batch_size, progress=progress
    )[0]


def summed_gradient_and_losses(
    model: nn.Module,
    examples: Examples,
    *,
    loss: TrainingLoss = task.PLAIN,
    batch_size: int = BATCH,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> tuple[Tensor, Tensor]:
    """Return the summed gradient (p,) float64 and the examples' losses (n,), in one pass.

    Sums are kept in float64: a float32 running sum over 45,000 examples would lose the digits in
    which one forgotten example shows.
    """
    (total,), losses = _sums(model, examples, (torch.ones_like,), loss, batch_size, progress)
    return total, losses


def weighted_gradient(
    model: nn.Module,
    examples: Examples,
    weigh: Callable[[Tensor], Tensor],
    *,
    loss: TrainingLoss = task.PLAIN,
    batch_size: int = BATCH,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Σᵢ ∇ℓᵢ and Σᵢ wᵢ·∇ℓᵢ, each (p,) float64, and losses (n,), from one forward pass.

    ``weigh`` gives the weights (b,) of a batch from its losses (b,); they are constants to the
    gradient.
    """
    (plain, weighted), losses = _sums(model, examples, (torch.ones_like, weigh), loss, batch_size)
    return plain, weighted, losses


def _sums(
    model: nn.Module,
    examples: Examples,
    weighings: Sequence[Callable[[Tensor], Tensor]],
    training_loss: TrainingLoss,
    batch_size: int,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> tuple[list[Tensor], Tensor]:
    """Return for each weighing the weighted sum of gradients (p,) float64, and the losses (n,)."""
    parameters = list(step_parameters(model).values())
    device = parameters[0].device
    count = sum(p.numel() for p in parameters)
    totals = [torch.zeros(count, dtype=torch.float64, device=device) for _ in weighings]
    found: list[Tensor] = []
    division = ranks.by_batches(len(examples), batch_size)
    mine = division.part(examples)
    with evaluating(model), torch.enable_grad():
        for i, (x, y) in enumerate(mine.batches(batch_size, device=device)):
            progress(i * batch_size / len(mine))
            logits = model(x)
            minimised = training_loss(logits, y)
            loss = (minimised if training_loss.is_plain else task.loss(logits, y)).detach()
            for k, weigh in enumerate(weighings):
                grads = torch.autograd.grad(
                    minimised,
                    parameters,
                    grad_outputs=weigh(loss),
                    retain_graph=k + 1 < len(weighings),
                    allow_unused=True,
                    materialize_grads=True,
                )
                totals[k] += torch.cat([g.reshape(-1) for g in grads]).double()
            found.append(loss)
    losses = torch.cat(found) if found else torch.zeros(0, device=device)
    return division.summed(totals), division.joined(losses)


def losses(model: nn.Module, examples: Examples, *, batch_size: int = BATCH) -> Tensor:
    """Return the loss of each example, (n,)."""
    return _evaluate(model, examples, task.loss, batch_size)


def correct(model: nn.Module, examples: Examples, *, batch_size: int = BATCH) -> Tensor:
    """Return whether each example is classified correctly, (n,) bool."""
    return _evaluate(model, examples, task.correct, batch_size)


def logits(model: nn.Module, examples: Examples, *, batch_size: int = BATCH) -> Tensor:
    """Return the logits of each example, (n, classes)."""
    return _evaluate(model, examples, lambda logits, _: logits, batch_size)


def step_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a step may move, by name."""
    frozen = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for p in module.parameters(recurse=False)
    }
    found = {
        name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in frozen
    }
    if not found:
        raise WrongOptions("the model has no trainable parameter that a step may move")
    return found


def flatten(model: nn.Module) -> Tensor:
    """Return a copy of the step parameters as one vector (p,)."""
    return torch.cat([p.detach().reshape(-1) for p in step_parameters(model).values()])


def unflatten(flat: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Return views of ``flat`` (p,) with the names and shapes of the model's step parameters."""
    parameters = step_parameters(model)
    pieces = torch.split(flat, [p.numel() for p in parameters.values()])
    return {
        name: piece.view_as(p) for (name, p), piece in zip(parameters.items(), pieces, strict=True)
    }


@torch.no_grad()
def load(model: nn.Module, flat: Tensor) -> None:
    """Set the model's step parameters to ``flat`` (p,), in place."""
    parameters = step_parameters(model)
    if flat.numel() != (expected := sum(p.numel() for p in parameters.values())):
        raise WrongOptions(f"the model has {expected} step parameters, not {flat.numel()}")
    for p, piece in zip(
        parameters.values(),
        torch.split(flat, [p.numel() for p in parameters.values()]),
        strict=True,
    ):
        p.copy_(piece.view_as(p))


def at(model: Module, flat: Tensor) -> Module:
    """Return a copy of the model whose step parameters are ``flat`` (p,)."""
    moved = copy.deepcopy(model)
    load(moved, flat)
    return moved


_NARROW = (torch.float16, torch.bfloat16)


def is_narrow(model: nn.Module) -> bool:
    """Return whether a step parameter is in half precision."""
    return any(p.dtype in _NARROW for p in step_parameters(model).values())


def widened(model: Module) -> Module:
    """Return a copy whose floating-point state, and input, is float32 or wider."""
    network = copy.deepcopy(model)
    for t in [*network.parameters(), *network.buffers()]:
        if t.dtype in _NARROW:
            t.data = t.data.float()

    def widen(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.float() if x.dtype in _NARROW else x for x in inputs)

    if is_narrow(model):
        network.register_forward_pre_hook(widen)
    return network


def unstepped(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the floating-point state that no step moves, by name.

    Affine parameters and running statistics of normalisation, frozen parameters, buffers. With the
    step parameters they decide what the model computes.
    """
    moved = {id(p) for p in step_parameters(model).values()}
    return {
        name: t.detach().clone()
        for name, t in model.state_dict(keep_vars=True).items()
        if id(t) not in moved and t.is_floating_point()
    }


@torch.no_grad()
def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set what :func:`unstepped` copied, in place; names that ``state`` lacks stay as they are."""
    own = model.state_dict()
    for name, t in state.items():
        if name not in own or own[name].shape != t.shape:
            raise WrongOptions(f"the model has no {name} of shape {tuple(t.shape)}")
        own[name].copy_(t)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode for the block; restore each module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def recalibrate_batch_norm(
    model: nn.Module, examples: Examples, *, batch_size: int = BATCH
) -> None:
    """Set the running statistics of batch and instance normalisation to those of ``examples``.

    In place. The mean is that over all rows. The variance is the mean, over all rows, of the
    unbiased variances within the batches; differences between the batches' means are not included.
    Fewer than two rows leave the statistics unchanged.

    Call it when a version is published, with the retained rows only, so that the statistics contain
    nothing of forgotten rows. Other layers stay in evaluation mode.
    """
    layers = [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats
    ]
    if not layers or min(len(examples), batch_size) < 2:
        return
    momenta = [m.momentum for m in layers]
    device = next(model.parameters()).device
    division = ranks.by_batches(len(examples), batch_size)
    seen = 0
    with evaluating(model):
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
        for x, _ in division.part(examples).batches(batch_size, device=device):
            seen += len(x)
            for layer in layers:
                # Every row has the same weight; averaging over batches would favour a short one.
                layer.momentum = len(x) / seen
            model(x)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
    running = [one for m in layers for one in (m.running_mean, m.running_var) if one is not None]
    sums = division.summed([one * division.share() for one in running])
    for one, total in zip(running, sums, strict=True):
        one.copy_(total)
    batches = [m.num_batches_tracked for m in layers if m.num_batches_tracked is not None]
    for one, total in zip(batches, division.summed(batches), strict=True):
        one.copy_(total)


def _evaluate(
    model: nn.Module,
    examples: Examples,
    measure: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
) -> Tensor:
    device = next(model.parameters()).device
    division = ranks.by_batches(len(examples), batch_size)
    mine = division.part(examples)
    with evaluating(model), torch.no_grad():
        parts = [measure(model(x), y) for x, y in mine.batches(batch_size, device=device)]
    return division.joined(torch.cat(parts)) if parts else torch.zeros(0, device=device)
