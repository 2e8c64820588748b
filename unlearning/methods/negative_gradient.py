"""Climb the loss of the rows to forget, on request while descending that of the retained rows.

    plain:             L(θ) = − mean over D_f of ℓ(z, θ)
    with retain term:  L(θ) = α · mean over D_r of ℓ − (1 − α) · mean over D_f of ℓ

``x`` (n, *shape), ``y`` (n,) int64, logits (n, classes). Golatkar et al., Eternal Sunshine of the
Spotless Net (2020), section 5 (plain); Kurmanji et al., Towards Unbounded Machine Unlearning
(2023), section 5, "NegGrad+" (with the retain term).

Batch-norm statistics stay frozen in both forms: rows to forget are in every step.

Guarantee: empirical. −ℓ has no lower bound and its gradient nearly coincides with that of D_r at a
well-trained point, so the plain form destroys the model if it is followed far; rate and epochs, or
``strength="calibrated"``, decide where it stops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Gt, Le, Lt
from torch import Tensor, nn

from unlearning.core import task
from unlearning.core.examples import Examples
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "training"

# The authors' lr and epochs of the two forms.
_PLAIN = (1e-4, 5)
_WITH_RETAIN = (0.01, 10)


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """Left empty, ``learning_rate`` and ``epochs`` are the authors' of the form that is chosen.

    Plain: 1e-4 for 5 epochs. With the retain term: .01 for 10 epochs.
    """

    retain_term: bool = False
    #: Weight α of the retained rows in the form with the retain term.
    alpha: Annotated[float, Gt(0), Lt(1)] = 0.95
    learning_rate: Annotated[float, Gt(0), Le(10)] | None = None  # type: ignore[assignment]
    epochs: Annotated[int, Gt(0), Le(1000)] | None = None  # type: ignore[assignment]


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a copy of the model after ascending the loss of ``forget``."""
    _strength.check(forget, retain)
    rate, epochs = _WITH_RETAIN if options.retain_term else _PLAIN
    settings = replace(
        options, learning_rate=options.learning_rate or rate, epochs=options.epochs or epochs
    )

    def plain(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        for x, y in _fine_tuning.forgotten(network, forget, options.batch_size, generator):
            yield -task.loss(network(x), y).mean()

    def with_retain(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        network.eval()
        both = _pairs(network, forget, retain, options.batch_size, generator)
        for (x_f, y_f), (x_r, y_r) in both:
            kept = task.loss(network(x_r), y_r).mean()
            gone = task.loss(network(x_f), y_f).mean()
            yield options.alpha * kept - (1 - options.alpha) * gone

    return _fine_tuning.run(
        model,
        with_retain if options.retain_term else plain,
        options=settings,
        forget=forget,
        retain=retain,
        context=context,
        generator=generator,
        attempts=3 if options.retain_term else 5,
    )


def _pairs(
    network: nn.Module,
    forget: Examples,
    retain: Examples,
    batch_size: int,
    generator: torch.Generator,
) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Yield every batch of ``retain`` beside one of ``forget``, which restarts when exhausted."""
    device = _fine_tuning.device_of(network)
    ours = forget.batches(batch_size, device=device, generator=generator)
    for theirs in retain.batches(batch_size, device=device, generator=generator):
        if (mine := next(ours, None)) is None:
            ours = forget.batches(batch_size, device=device, generator=generator)
            mine = next(ours)
        yield mine, theirs
