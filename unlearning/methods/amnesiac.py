"""Take back every training step whose batch held a row to forget, then heal.

    θ ← θ − Σ_{b : b ∩ D_f ≠ ∅} Δ_b;   then ``epochs`` epochs of CE on D_r

with Δ_b (p,) the change of the step parameters that training batch b made, kept in an update log.
``x`` (n, *shape), ``y`` (n,) int64, logits (n, classes). Graves et al., Amnesiac Machine Learning
(2021), section 3.2.

Needs a model that was trained with its update log, and rows that are addressed as they were then.
Batch-norm parameters are not in the log and stay.

Guarantee: empirical. The step itself is gone, but the later steps were taken from weights that
held it. When most batches held a forgotten row (about 1 − (1 − share)^batch of them do) little
training is left, and retraining costs no more; the update says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from unlearning import objective
from unlearning.errors import NeedsRetrain, WrongOptions
from unlearning.examples import Examples
from unlearning.methods import _fine_tuning, _strength
from unlearning.methods._contract import Context, Update
from unlearning.update_log import UpdateLog

FORGETS = frozenset({"records", "class"})
GUARANTEE = "empirical"

# Share of the batches beyond which healing is most of a training.
_MOST = 0.5


@dataclass(frozen=True, kw_only=True)
class Options(_fine_tuning.Options):
    """One epoch of healing by SGD at .01, momentum .9."""

    epochs: Annotated[int, Ge(0), Le(1000)] = 1


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """A copy of the model without the training steps that saw ``forget``."""
    _strength.check(forget, retain)
    log = _log(context)
    batches = holding(log, forget.positions)
    start = objective.at(model, objective.flatten(model) - _sum(log, batches, model))

    def losses(network: nn.Module, _epoch: int) -> Iterator[Tensor]:
        for x, y in _fine_tuning.retained(network, retain, options.batch_size, generator):
            yield functional.cross_entropy(network(x), y)

    update = _fine_tuning.run(
        model,
        losses,
        start=start,
        options=options,
        forget=forget,
        retain=retain,
        context=context,
        generator=generator,
        attempts=1,
    )
    share = len(batches) / max(1, len(log))
    notes = {**update.notes, "batches_taken_back": len(batches), "batches_logged": len(log)}
    because = update.retrain_because
    if share > _MOST:
        because += (f"{share:.0%} of the training batches held a row to forget",)
    return replace(update, notes=notes, retrain_because=because, update_log=_without(log, batches))


def holding(log: UpdateLog, positions: Tensor) -> list[int]:
    """Numbers of the logged batches that held a row at one of ``positions`` (m,) int64."""
    return [i for i, rows in enumerate(log.rows) if torch.isin(rows, positions.cpu()).any()]


def _without(log: UpdateLog, batches: list[int]) -> UpdateLog:
    """The log of the steps that are still in the weights: none is to be taken back twice."""
    kept = sorted(set(range(len(log))) - set(batches))
    return UpdateLog(log.max_bytes, [log.rows[i] for i in kept], [log.deltas[i] for i in kept])


def _sum(log: UpdateLog, batches: list[int], model: nn.Module) -> Tensor:
    """Σ Δ_b over ``batches`` (p,), added up in float64: rounding would stay in the weights."""
    start = objective.flatten(model)
    total = torch.zeros_like(start, dtype=torch.float64, device="cpu")
    for i in batches:
        total += log.deltas[i]
    return total.to(start)


def _log(context: Context) -> UpdateLog:
    log = context.update_log
    if log is None:
        raise WrongOptions(
            "amnesiac needs the log of training updates: train the model with an update log, or "
            "choose another method"
        )
    if not log.complete:
        raise NeedsRetrain(
            "the log of training updates ended before training did: raise its size and retrain"
        )
    return log
