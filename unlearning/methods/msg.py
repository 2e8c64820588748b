"""Start over the weights that the rows to forget and the retained rows agree on least to move.

    score = |∇_θ (mean over D_r of ℓ − mean over D_f of ℓ)|;  the ``share`` of the weights of linear
    and convolutional layers with the smallest score is drawn anew; then training goes on on D_r,
    every parameter that was kept (biases too) at a tenth of the learning rate

``x`` (n, *shape), ``y`` (n,) int64, logits (n, classes), score in each weight's shape. "MSG"
(masked small gradients) of the NeurIPS 2023 machine unlearning challenge; described in Cadet et
al., Deep Unlearn: Benchmarking Machine Unlearning (2024), section 4.

New weights come from PyTorch's default initialisation, drawn from the generator.

Guarantee: empirical. A weight with a small score is assumed to serve both sets alike, so that the
network may have memorised there; nothing is proven about the weights that stay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "training"


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """30 % of the weights; SGD at 1e-3, momentum .9, weight decay 5e-4, 5 epochs."""

    learning_rate: Annotated[float, Gt(0), Le(10)] = 1e-3
    weight_decay: Annotated[float, Ge(0), Le(1)] = 5e-4
    epochs: Annotated[int, Ge(1), Le(1000)] = 5
    #: Share of the weights that are drawn anew.
    share: Annotated[float, Gt(0), Le(1)] = 0.3
    #: Learning rate of every parameter that was kept, relative to that of the new weights.
    kept_rate: Annotated[float, Ge(0), Le(1)] = 0.1


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model, its least salient weights reset and trained on ``retain``."""
    _strength.check(forget, retain)
    fresh = least(model, forget, retain, share=options.share)
    start = _drawn_anew(model, fresh, generator)

    def losses(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        for x, y in _fine_tuning.retained(network, retain, options.batch_size, generator):
            yield task.loss(network(x), y).mean()

    return _fine_tuning.run(
        model,
        losses,
        start=start,
        options=options,
        forget=forget,
        retain=retain,
        context=context,
        generator=generator,
        rates=_rates(model, fresh, options.kept_rate),
    )


def least(
    model: nn.Module, forget: Examples, retain: Examples, *, share: float
) -> dict[str, Tensor]:
    """Return name → bool mask of each linear or convolutional weight; True for small scores."""
    kept = objective.summed_gradient(model, retain) / len(retain)
    gone = objective.summed_gradient(model, forget) / len(forget)
    weights = _weights(model)
    if not weights & objective.step_parameters(model).keys():
        raise WrongOptions(
            "msg draws linear or convolutional weights anew, and this network has none: choose "
            "another method"
        )
    scores = {
        name: score
        for name, score in objective.unflatten((kept - gone).abs(), model).items()
        if name in weights
    }
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(round(share * flat.numel()), largest=False).indices] = True
    pieces = torch.split(chosen, [score.numel() for score in scores.values()])
    return {
        name: piece.view_as(score)
        for (name, score), piece in zip(scores.items(), pieces, strict=True)
    }


def _rates(model: nn.Module, fresh: dict[str, Tensor], kept_rate: float) -> dict[str, Tensor]:
    """Return the learning rate's factor for each parameter, in its shape: 1 where drawn anew."""
    kept = {name: torch.full_like(p, kept_rate) for name, p in model.named_parameters()}
    return kept | {name: torch.where(mask, 1.0, kept[name]) for name, mask in fresh.items()}


def _weights(model: nn.Module) -> set[str]:
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    return {
        f"{name}.weight".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, layers)
    }


@torch.no_grad()
def _drawn_anew(
    model: nn.Module, masks: dict[str, Tensor], generator: torch.Generator
) -> nn.Module:
    network = copy.deepcopy(model)
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        weight = parameters[name]
        bound = weight[0].numel() ** -0.5  # nn.Linear and nn.Conv2d draw uniformly within it
        fresh = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
        weight.copy_(torch.where(mask, fresh.to(weight), weight))
    return network
