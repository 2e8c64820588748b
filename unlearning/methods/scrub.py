"""A student that disagrees with the original model on the rows to forget and agrees elsewhere.

The original θ₀ is the teacher, a copy of it the student. During the first ``max_epochs`` epochs, an
epoch begins with a pass that moves away from the teacher on D_f; each ends with one that stays near
it on D_r:

    max:  L = −KL(p_T(x; θ₀) ‖ p_T(x; θ)),                           x ∈ D_f
    min:  L = α · KL(p_T(x; θ₀) ‖ p_T(x; θ)) + γ · CE(f(x; θ), y),   x ∈ D_r

with p_T the softmax at temperature T and each KL multiplied by T². ``x`` (n, *shape), ``y`` (n,)
int64, logits (n, classes). Kurmanji et al., Towards Unbounded Machine Unlearning (2023), section
3.2, equations 3 and 4. The settings are those of their program for CIFAR-10.

Guarantee: empirical. On single records the max passes overshoot: their loss becomes higher than
that of unseen rows. The authors rewind to the epoch whose forget error fits ("SCRUB+R");
``strength="calibrated"`` is the continuous form of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional

from unlearning.core import task
from unlearning.core.examples import Examples
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"
COST = "training"


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """SGD at 5e-4, momentum .9, weight decay 5e-4, 3 epochs, the first 2 with a max pass."""

    learning_rate: Annotated[float, Gt(0), Le(10)] = 5e-4
    weight_decay: Annotated[float, Ge(0), Le(1)] = 5e-4
    epochs: Annotated[int, Ge(1), Le(1000)] = 3
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 128
    forget_batch_size: Annotated[int, Ge(1), Le(65_536)] = 512
    max_epochs: Annotated[int, Ge(0), Le(1000)] = 2
    alpha: Annotated[float, Ge(0), Le(1000)] = 0.001
    gamma: Annotated[float, Ge(0), Le(1000)] = 0.99
    temperature: Annotated[float, Gt(0), Le(1000)] = 4.0


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return a student of the model that unlearned ``forget``."""
    _strength.check(forget, retain)
    teacher = _fine_tuning.frozen_copy(model)

    def losses(network: nn.Module, epoch: int) -> Iterator[Tensor]:
        if epoch < options.max_epochs:
            size = options.forget_batch_size
            for x, _ in _fine_tuning.forgotten(network, forget, size, generator):
                yield -divergence(teacher(x), network(x), temperature=options.temperature)
        for x, y in _fine_tuning.retained(network, retain, options.batch_size, generator):
            logits = network(x)
            near = divergence(teacher(x), logits, temperature=options.temperature)
            yield options.alpha * near + options.gamma * task.loss(logits, y).mean()

    return _fine_tuning.run(
        model,
        losses,
        options=options,
        forget=forget,
        retain=retain,
        context=context,
        generator=generator,
        attempts=4,  # three epochs each
    )


def divergence(teacher: Tensor, student: Tensor, *, temperature: float) -> Tensor:
    """Return T²·KL(teacher ‖ student), mean over rows, from logits (n, classes) of both."""
    p = functional.log_softmax(teacher / temperature, dim=1)
    q = functional.log_softmax(student / temperature, dim=1)
    return functional.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2
