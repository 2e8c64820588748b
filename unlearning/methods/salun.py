"""Random labels for the rows to forget, learned only by the weights that matter to them.

    mask m = |∇_θ mean over D_f of ℓ(z, θ₀)| ≥ its (1 − share)-quantile over all weights
    each epoch: D_f with random wrong labels out of those of D_r, then D_r; only weights with
    m = 1 move

``x`` (n, *shape), ``y`` (n,) int64, logits (n, classes), m bool in each parameter's shape. Fan et
al., SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency (2024), equations 3
to 5. Parameters of batch normalisation carry no saliency here and do not move.

Guarantee: empirical. The mask spares the weights that D_f hardly affects, which preserves the rest
of the model; on the others it is random labelling, with the same weakness on single records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from unlearning.core import objective, task
from unlearning.core.examples import Examples
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "training"


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """Half of the weights; SGD at .013, momentum .9, weight decay 5e-4, 10 epochs, batch 256."""

    learning_rate: Annotated[float, Gt(0), Le(10)] = 0.013
    weight_decay: Annotated[float, Ge(0), Le(1)] = 5e-4
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 256
    #: Share of the weights that may move.
    share: Annotated[float, Gt(0), Le(1)] = 0.5


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model whose salient weights learned wrong labels of ``forget``."""
    _strength.check(forget, retain)
    classes = _fine_tuning.retained_classes(forget, retain)
    masks = saliency(model, forget, share=options.share)

    def losses(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        labels = _fine_tuning.wrong_labels(forget.labels, classes=classes, generator=generator)
        wrong = _fine_tuning.relabelled(forget, labels)
        for x, y in _fine_tuning.forgotten(network, wrong, options.batch_size, generator):
            yield task.loss(network(x), y).mean()
        for x, y in _fine_tuning.retained(network, retain, options.batch_size, generator):
            yield task.loss(network(x), y).mean()

    return _fine_tuning.run(
        model,
        losses,
        options=options,
        forget=forget,
        retain=retain,
        context=context,
        generator=generator,
        rates={name: mask.float() for name, mask in masks.items()},
    )


def saliency(model: nn.Module, forget: Examples, *, share: float) -> dict[str, Tensor]:
    """Return name → bool mask of every parameter; the ``share`` of largest |∇L_f| is True."""
    gradient = objective.summed_gradient(model, forget).abs()
    chosen = torch.zeros_like(gradient, dtype=torch.bool)
    chosen[gradient.topk(max(1, round(share * gradient.numel()))).indices] = True
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    return masks | objective.unflatten(chosen, model)
