"""Many small trainings at once: the weights of networks of one shape, stacked.

Each network is trained as it would be alone (its own rows, order and initial weights; Adam works
element by element), in a third of the time: what a processor spends on a step of so small a network
is mostly the calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.architectures import Classifier
from unlearning.core.examples import Examples

#: Every training is so long that nearly every row is classified as its label says.
EPOCHS, BATCH, LEARNING_RATE = 40, 50, 3e-3
#: Networks trained at once.
_TOGETHER = 20

Training = tuple[Classifier, Examples, torch.Generator]


def fit(trainings: Sequence[Training]) -> None:
    """Train every network in place with Adam for ``EPOCHS`` epochs, and keep the last weights.

    The package's own training keeps the epoch that validates best, which may come before the last
    row is learned: here all are to be learned.
    """
    by_size = sorted(trainings, key=lambda one: len(one[1]))
    for _, alike in groupby(by_size, key=lambda one: len(one[1])):
        group = list(alike)
        for start in range(0, len(group), _TOGETHER):
            _fit_together(group[start : start + _TOGETHER])


def _fit_together(trainings: Sequence[Training]) -> None:
    x = torch.stack([m.factor * r.x[r.positions] - m.shift for m, r, _ in trainings])
    y = torch.stack([rows.labels for _, rows, _ in trainings])
    layers = [[m for m in model.modules() if isinstance(m, nn.Linear)] for model, _, _ in trainings]
    weights = [
        nn.Parameter(torch.stack([m.weight.detach().T for m in same])) for same in _zip(layers)
    ]
    biases = [
        nn.Parameter(torch.stack([m.bias.detach()[None] for m in same])) for same in _zip(layers)
    ]
    optimiser = torch.optim.Adam([*weights, *biases], lr=LEARNING_RATE, fused=True)
    each = torch.arange(len(trainings))[:, None]
    count = x.shape[1]
    for _ in range(EPOCHS):
        order = torch.stack([torch.randperm(count, generator=g) for _, _, g in trainings])
        for start in range(0, count, BATCH):
            here = order[:, start : start + BATCH]
            logits = _forward(x[each, here], weights, biases)
            loss = functional.cross_entropy(
                logits.flatten(0, 1), y[each, here].flatten(), reduction="sum"
            )
            optimiser.zero_grad(set_to_none=True)
            (loss / here.shape[1]).backward()  # type: ignore[no-untyped-call]  # torch has no types
            optimiser.step()
    for j, own in enumerate(layers):
        for layer, weight, bias in zip(own, weights, biases, strict=True):
            layer.weight.data = weight.detach()[j].T.clone()
            layer.bias.data = bias.detach()[j, 0].clone()
        trainings[j][0].eval()


def _forward(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = torch.baddbmm(bias, x.relu() if k else x, weight)
    return x


def _zip(layers: list[list[nn.Linear]]) -> list[tuple[nn.Linear, ...]]:
    return list(zip(*layers, strict=True))
