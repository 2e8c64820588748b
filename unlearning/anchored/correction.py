"""Correct a step by the retained rows: as many gradient steps as validation rows approve of.

A step that forgets rows holds the margins of retained rows. A training without the rows would not
hold them: freed from a wrong label, the network becomes surer of what it retains. So a copy of the
moved network follows the gradient of the retained rows' mean loss (Adam; Kingma & Ba,
arXiv 1412.6980), in mini-batches of a sample. Validation rows are compared after 1/16, 1/8, 1/4,
1/2 and all of the steps, row by row with those before the first, and the weights with the lowest
mean loss are taken if that is more than a standard error lower. Else nothing is corrected. After
two comparisons in a row that are worse than the best by more than a standard error no step follows:
from there on the sample is learned by heart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.core.task import PLAIN, TrainingLoss

#: The shares of the steps after which validation rows are compared, as powers of a half.
_HALVINGS = 4
#: Comparisons in a row that must be worse than the best before the steps end.
_ENOUGH = 2
#: Smallest change of the mean validation loss that counts, relative to it.
_LEAST = 0.01


@dataclass(frozen=True)
class Settings:
    """Settings of the correction."""

    #: Gradient steps at most; 0 turns the correction off.
    steps: int = 128
    #: Rows of a mini-batch.
    rows: int = 50
    learning_rate: float = 1e-3
    #: What the training minimised.
    loss: TrainingLoss = PLAIN


@dataclass(frozen=True)
class Corrected:
    """Weights (p,), the gradient steps that led to them, and the validation rows' losses there."""

    weights: Tensor
    steps: int
    losses: Tensor


def differ(before: Tensor, after: Tensor) -> bool:
    """Return whether the mean of losses (m,) has changed, in either direction.

    By more than the standard error of the paired difference, and more than 1 % of the mean.
    """
    change = after - before
    moved = abs(float(change.mean()))
    return moved > max(_error(change), _LEAST * float(before.mean()))


def lower(before: Tensor, after: Tensor) -> bool:
    """Return whether the mean of losses (m,) has fallen by more than its standard error."""
    change = after - before
    return float(change.mean()) < -_error(change)


def correct(
    network: nn.Module,
    retain: Examples,
    validation: Examples,
    *,
    settings: Settings,
    batch_size: int = objective.BATCH,
    generator: torch.Generator,
) -> Corrected:
    """Return the weights of the corrected network; ``network`` is not changed.

    It must be in evaluation mode, in which the gradients are computed too: the statistics of
    normalisation layers stay. Only step parameters change.
    """
    start = objective.flatten(network)
    before = objective.losses(network, validation, batch_size=batch_size)
    best, worse = Corrected(start, 0, before), 0
    looks = {math.ceil(settings.steps / 2**k) for k in range(_HALVINGS + 1)}
    try:
        for taken in _walk(network, retain, settings, generator):
            if taken not in looks:
                continue
            losses = objective.losses(network, validation, batch_size=batch_size)
            if lower(before, losses) and float(losses.mean()) < float(best.losses.mean()):
                best = Corrected(objective.flatten(network), taken, losses)
            worse = worse + 1 if lower(losses, best.losses) else 0
            if worse == _ENOUGH:
                break
    finally:
        objective.load(network, start)
    return best


def _walk(
    network: nn.Module, retain: Examples, settings: Settings, generator: torch.Generator
) -> Iterator[int]:
    """Take the gradient steps one at a time; yield how many are taken."""
    parameters = list(objective.step_parameters(network).values())
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)
    device, taken = parameters[0].device, 0
    try:
        while taken < settings.steps:
            for x, y in retain.batches(settings.rows, device=device, generator=generator):
                with torch.enable_grad():
                    loss = settings.loss(network(x), y).mean()
                    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, grads, strict=True):
                    parameter.grad = gradient
                optimiser.step()
                taken += 1
                yield taken
                if taken == settings.steps:
                    break
    finally:
        for parameter in parameters:
            parameter.grad = None


def _error(change: Tensor) -> float:
    """Return the standard error of the mean of ``change`` (m,)."""
    return float(change.std()) / math.sqrt(len(change)) if len(change) > 1 else math.inf
