"""Diagonals of the Fisher information: means of squared per-example gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional

from unlearning.core import ranks, task
from unlearning.core.examples import Examples

# Largest number of per-example gradient entries that are held at once (256 MB of float32).
_NUMBERS = 2**26

Weights = dict[str, Tensor]
# (logits (classes,), y ()) of one example → scalars (k,) to differentiate, and their weights (k,).
Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# (parameters, x, y) → Σ_k weight·gradient² of one example, or of each of a batch.
Squares = Callable[[Weights, Tensor, Tensor], Weights]


def expected(model: nn.Module, examples: Examples) -> Weights:
    """Return F = E_x Σ_y p(y|x)·(∂ log p(y|x)/∂θ)² by name, each in its parameter's shape.

    The labels are the model's own, weighted by their probability; those of the data are not read.
    """

    def terms(logits: Tensor, _y: Tensor) -> tuple[Tensor, Tensor]:
        log_p = functional.log_softmax(logits, dim=-1)
        return log_p, log_p.detach().exp()

    return _mean(model, terms, examples)


def empirical(model: nn.Module, examples: Examples) -> Weights:
    """Return the mean over the examples of (∂ℓ/∂θ)², with their own labels."""

    def terms(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss = task.loss(logits, y).mean()[None]
        return loss, torch.ones_like(loss)

    return _mean(model, terms, examples)


def _mean(model: nn.Module, terms: Terms, examples: Examples) -> Weights:
    network = copy.deepcopy(model).eval()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    size = max(1, min(256, _NUMBERS // sum(p.numel() for p in parameters.values())))
    device = next(iter(parameters.values())).device
    many = vmap(partial(_squares, network, terms), in_dims=(None, 0, 0))
    division = ranks.by_batches(len(examples), size)
    for x, y in division.part(examples).batches(size, device=device):
        try:
            rows = many(parameters, x, y)
        except RuntimeError:
            # An operator of a custom network may not be vectorisable: go row by row.
            many = partial(_row_by_row, network, terms)
            rows = many(parameters, x, y)
        for name, row in rows.items():
            total[name] += row.sum(0)
    sums = zip(total, division.summed(list(total.values())), strict=True)
    return {name: (t / len(examples)).to(parameters[name].dtype) for name, t in sums}


def _squares(
    network: nn.Module, terms: Terms, parameters: Weights, x: Tensor, y: Tensor
) -> Weights:
    """Return the squares of one example, with transforms that vectorise over examples."""

    def forward(at: Weights) -> tuple[Tensor, Tensor]:
        return terms(_logits(network, at, x), y)

    # torch's annotation lacks the third value.
    values, pull, weights = vjp(forward, parameters, has_aux=True)  # type: ignore[misc]
    total = {name: torch.zeros_like(t) for name, t in parameters.items()}
    for one, weight in zip(torch.eye(len(values)).to(values), weights.unbind(), strict=True):
        (gradient,) = pull(one)
        total = {name: t + weight * gradient[name] ** 2 for name, t in total.items()}
    return total


def _row_by_row(
    network: nn.Module, terms: Terms, parameters: Weights, x: Tensor, y: Tensor
) -> Weights:
    """Return the same over a batch by plain backward passes, which work for every network."""
    at = {name: t.detach().requires_grad_() for name, t in parameters.items()}
    total = {name: torch.zeros_like(t) for name, t in parameters.items()}
    for row, label in zip(x, y, strict=True):
        values, weights = terms(_logits(network, at, row), label)
        for value, weight in zip(values, weights, strict=True):
            gradient = torch.autograd.grad(
                value,
                list(at.values()),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for name, g in zip(at, gradient, strict=True):
                total[name] += weight * g**2
    return {name: t[None] for name, t in total.items()}


def _logits(network: nn.Module, parameters: Weights, x: Tensor) -> Tensor:
    logits: Tensor = functional_call(network, parameters, (x[None],))
    return logits[0]
