"""Teach the rows to forget random wrong labels, then go on training on the retained rows.

Each epoch passes D_f with labels drawn once, uniform over the wrong classes that occur in D_r, and
then D_r with its own labels:

    θ ← θ − lr · ∇ mean over a batch of D_f of ℓ((x, y′), θ),  y′ ≠ y
    θ ← θ − lr · ∇ mean over a batch of D_r of ℓ((x, y), θ)

``x`` (n, *shape), ``y`` and ``y′`` (n,) int64, logits (n, classes). Hayase et al., Selective
Forgetting of Deep Networks at a Finer Level than Samples (2020), section 3; a baseline of Golatkar
et al. (2020), section 5.

Guarantee: empirical. Being wrong on D_f is not the same as never having seen it: on single records
the loss tends to end above that of unseen rows, which an attack can tell too. It assumes that the
passes over D_r repair what the wrong labels break.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from unlearning.core import task
from unlearning.core.examples import Examples
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "training"


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """SGD at .1 for 10 epochs, without momentum: with it, plain networks diverge at this rate."""

    learning_rate: Annotated[float, Gt(0), Le(10)] = 0.1
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy trained on wrong labels of ``forget`` and right ones of ``retain``."""
    _strength.check(forget, retain)
    classes = _fine_tuning.retained_classes(forget, retain)
    labels = _fine_tuning.wrong_labels(forget.labels, classes=classes, generator=generator)
    wrong = _fine_tuning.relabelled(forget, labels)

    def losses(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
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
    )
