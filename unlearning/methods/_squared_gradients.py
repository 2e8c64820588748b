"""Diagonals of the Fisher information: means of squared per-example gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from unlearning.examples import Examples

# Numbers in the per-example gradients that are held at once (256 MB of float32).
_NUMBERS = 2**26

Weights = dict[str, Tensor]
# (parameters, x, y) → squared gradients: of one example, or of each of a batch.
Squares = Callable[[Weights, Tensor, Tensor], Weights]


def expected(model: nn.Module, examples: Examples) -> Weights:
    """F = E_x Σ_y p(y|x)·(∂ log p(y|x)/∂θ)²: by name, each in its parameter's shape.

    The labels are the model's own, weighted by their probability; those of the data are not read.
    """
    network = copy.deepcopy(model).eval()

    def squares(parameters: Weights, x: Tensor, _y: Tensor) -> Weights:
        def log_probability(at: Weights, label: int) -> Tensor:
            return functional.log_softmax(_logits(network, at, x), dim=-1)[label]

        p = functional.softmax(_logits(network, parameters, x), dim=-1)
        total = {name: torch.zeros_like(t) for name, t in parameters.items()}
        for label in range(p.shape[-1]):
            gradient = grad(partial(log_probability, label=label))(parameters)
            total = {name: t + p[label] * gradient[name] ** 2 for name, t in total.items()}
        return total

    return _mean(network, squares, examples)


def empirical(model: nn.Module, examples: Examples) -> Weights:
    """E over the examples of (∂ℓ/∂θ)², with their own labels."""
    network = copy.deepcopy(model).eval()

    def loss(at: Weights, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(_logits(network, at, x), y)

    def squares(parameters: Weights, x: Tensor, y: Tensor) -> Weights:
        return {name: g**2 for name, g in grad(loss)(parameters, x, y).items()}

    return _mean(network, squares, examples)


def _logits(network: nn.Module, parameters: Weights, x: Tensor) -> Tensor:
    logits: Tensor = functional_call(network, parameters, (x[None],))
    return logits[0]


def _mean(
    network: nn.Module,
    squares: Squares,
    examples: Examples,
) -> Weights:
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    size = max(1, min(256, _NUMBERS // sum(p.numel() for p in parameters.values())))
    device = next(iter(parameters.values())).device
    many = vmap(squares, in_dims=(None, 0, 0))
    for x, y in examples.batches(size, device=device):
        try:
            rows = many(parameters, x, y)
        except RuntimeError:
            # Not every operator of a user's network can be vectorised: row by row then.
            many = _one_by_one(squares)
            rows = many(parameters, x, y)
        for name, row in rows.items():
            total[name] += row.sum(0)
    return {name: (t / len(examples)).to(parameters[name].dtype) for name, t in total.items()}


def _one_by_one(squares: Squares) -> Squares:
    def many(parameters: Weights, x: Tensor, y: Tensor) -> Weights:
        rows = [squares(parameters, x[i], y[i]) for i in range(len(x))]
        return {name: torch.stack([row[name] for row in rows]) for name in parameters}

    return many
