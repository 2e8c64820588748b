"""Go on training on the retained rows and let the rest fade.

    θ ← θ − lr · ∇ mean over a batch of D_r of ℓ(z, θ)

ℓ is what the model's training minimised. ``x`` (n, *shape), ``y`` (n,) int64, logits (n, classes).
A baseline of Golatkar et al., Eternal Sunshine of the Spotless Net (2020), section 5, and of Chen
et al., Boundary Unlearning (2023), section 4.1.

Guarantee: empirical. The forgotten rows are no longer trained on, but nothing removes their effect
from the weights; it assumes that enough steps overwrite it, which does not hold for a network at a
flat minimum of D_r.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.core.examples import Examples
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "training"


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """SGD at .01 for 10 epochs."""


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model after ``options.epochs`` epochs on ``retain``."""
    _strength.check(forget, retain)

    def losses(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        for x, y in _fine_tuning.retained(network, retain, options.batch_size, generator):
            yield context.training_loss(network(x), y).mean()

    return _fine_tuning.run(
        model,
        losses,
        options=options,
        forget=forget,
        retain=retain,
        context=context,
        generator=generator,
    )
