"""Retraining from scratch without the forgotten rows: the baseline and the last resort.

A fresh model of the same architecture is trained with the same recipe on the retained rows D_r
alone.

Guarantee: exact. The forgotten rows are not read at all; they can only have influenced the choice
of the recipe's hyper-parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import nn

from unlearning.core import objective, training
from unlearning.core.examples import Examples
from unlearning.core.update_log import UpdateLog
from unlearning.errors import NothingRetained, WrongOptions
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "exact"
COST = "training"


@dataclass(frozen=True)
class Options:
    """Departures from the model's own recipe; None keeps it."""

    epochs: Annotated[int, Ge(1), Le(10_000)] | None = None


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Train a model that never saw ``forget``; its weights start a new anchor.

    An interrupted training resumes from ``context.resume`` and ends with the same weights.

    The validation rows choose the best epoch, as in the first training. If a class is forgotten,
    its validation rows are left out of that choice.
    """
    if context.fresh is None or context.recipe is None or context.calibration is None:
        raise WrongOptions("retraining needs a fresh model, the recipe and validation rows")
    if not len(retain):
        raise NothingRetained
    validation = context.calibration
    if context.kind == "class":
        kept = ~torch.isin(validation.labels, forget.labels)
        validation = validation.subset(kept.nonzero()[:, 0])
    recipe = context.recipe
    if options.epochs is not None:
        if not isinstance(recipe, training.Recipe):
            raise WrongOptions(
                f"the trainer {recipe.name} knows no epochs: leave the option epochs out, or set "
                "an option of the trainer in the model's recipe"
            )
        recipe = replace(recipe, epochs=options.epochs)
    # The old log describes the old weights; the new weights need a log of their own.
    old = context.update_log
    log = None if old is None else UpdateLog(max_bytes=old.max_bytes)
    fit = training.fit(
        context.fresh(),
        retain,
        validation,
        recipe=recipe,
        generator=generator,
        progress=context.progress,
        log=log,
        kept=context.kept,
        resume=context.resume,
    )
    objective.recalibrate_batch_norm(fit.model, retain)
    best = fit.history[fit.best_epoch]
    notes = {
        "epochs": len(fit.history),
        "best_epoch": fit.best_epoch,
        "training_loss": best.training_loss,
        "validation_loss": best.validation_loss,
        "validation_accuracy": best.validation_accuracy,
    }
    if context.resume is not None:
        notes["resumed_after_epochs"] = len(context.resume.history)
    return Update(
        model=fit.model, is_anchor=True, update_log=log, statistics=fit.statistics, notes=notes
    )
