"""The learning rate of each update of a training."""

from __future__ import annotations

import math

import torch

from unlearning.core.recipe import Recipe


def rate(recipe: Recipe, update: int, *, per_epoch: int) -> float:
    """Return the learning rate of the update number ``update``, counted from 0.

    ``per_epoch`` is the number of updates in each of ``recipe.epochs`` epochs. In the warm-up of W
    updates it is (update + 1)/W of the full rate. Of the T updates after it, number t has the share
    f + (1 − f)·(1 + cos(π·t/T))/2 (``cosine``) or 1 − (1 − f)·t/T (``linear``), f the final share.
    """
    warmup = recipe.warmup_epochs * per_epoch
    if update < warmup:
        return recipe.learning_rate * (update + 1) / warmup
    done = (update - warmup) / (recipe.epochs * per_epoch - warmup)
    rest = 1 - recipe.final_share
    match recipe.schedule:
        case "constant":
            return recipe.learning_rate
        case "cosine":
            share = recipe.final_share + rest * (1 + math.cos(math.pi * done)) / 2
        case "linear":
            share = 1 - rest * done
        case "step":
            epoch = update // per_epoch
            share = recipe.step_factor ** sum(epoch >= after for after in recipe.step_epochs)
    return recipe.learning_rate * share


def set_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of the optimiser's next update."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
