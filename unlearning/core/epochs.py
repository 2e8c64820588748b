"""The epochs of a training with a recipe, one after another, from any of them on."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.core import objective, task
from unlearning.core.augmentation import Moves
from unlearning.core.examples import Examples
from unlearning.core.recipe import Recipe
from unlearning.core.restriction import restricted_gradients
from unlearning.core.task import TrainingLoss
from unlearning.core.update_log import UpdateLog
from unlearning.errors import Diverged, WrongOptions


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch.

    ``training_loss`` is the mean of what the recipe minimises (``task.TrainingLoss``), over the
    epoch; ``validation_loss`` the mean loss at its end; ``learning_rate`` that of its last update,
    None if there is none.
    """

    training_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float | None


def require_finite(name: str, loss: float, epoch: int) -> None:
    """Raise ``Diverged`` unless this loss of an epoch (counted from 0) is finite."""
    if math.isfinite(loss):
        return
    became = "NaN" if math.isnan(loss) else "infinite"
    raise Diverged(
        f"the {name} became {became} in epoch {epoch + 1}; "
        "lower the learning rate (recipe.learning_rate)"
    )


def _check_batches_of_one(model: nn.Module, train: Examples, batches: list[slice]) -> None:
    """Raise ``WrongOptions`` if a batch is one row and the network does not accept it."""
    if all(here.stop - here.start > 1 for here in batches):
        return
    ((x, _),) = train.subset(torch.zeros(1, dtype=torch.int64)).batches(
        1, device=next(model.parameters()).device
    )
    trial = copy.deepcopy(model).train()
    try:
        # Dropout draws here, too, which must not change the training.
        with torch.random.fork_rng(), torch.no_grad():
            trial(x)
    except ValueError as error:
        if len(train) == 1:
            raise WrongOptions(
                "a single training row is left, and the network's batch normalisation needs two: "
                "add rows, choose an architecture without it, or withdraw the model"
            ) from error
        raise WrongOptions(
            "the network's batch normalisation takes no batch of one row: "
            "set recipe.batch_size to 2 or more"
        ) from error


def _step(
    model: nn.Module,
    train: Examples,
    rows: Sequence[Tensor],
    moves: Moves | None,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    loss: TrainingLoss,
    log: UpdateLog | None,
) -> float:
    """Make one update from the mini-batches of ``rows``; return the mean training loss of all."""
    trained = [p for p in model.parameters() if p.requires_grad]
    count = sum(map(len, rows))
    mean, total = 0.0, [torch.zeros_like(p) for p in trained] if len(rows) > 1 else []
    for here in rows:
        ((x, y),) = train.subset(here).batches(len(here), device=trained[0].device)
        if moves is not None:
            x = moves.apply(x, here)
        reached, grads = restricted_gradients(model, x, y, recipe=recipe, loss=loss)
        if len(rows) == 1:
            mean, total = float(reached), grads
        else:
            mean += float(reached) * len(here) / count
            torch._foreach_add_(total, grads, alpha=len(here) / count)
    for p, grad in zip(trained, total, strict=True):
        p.grad = grad
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
    before = None if log is None else objective.flatten(model)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if log is not None and before is not None:
        positions = train.subset(torch.cat(list(rows))).positions
        log.append(positions, objective.flatten(model) - before)
    return mean


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def _measure(
    model: nn.Module, validation: Examples, *, training_loss: float, learning_rate: float | None
) -> Epoch:
    logits = objective.logits(model, validation)
    y = validation.labels.to(logits.device)
    return Epoch(
        training_loss=training_loss,
        validation_loss=float(task.loss(logits, y).double().mean()),
        validation_accuracy=float(task.correct(logits, y).double().mean()),
        learning_rate=learning_rate,
    )


def _rows(history: Sequence[Epoch]) -> Tensor:
    """Return what the recipe does not give again of each epoch, (epochs, 3) float64."""
    return torch.tensor(
        [(one.training_loss, one.validation_loss, one.validation_accuracy) for one in history],
        dtype=torch.float64,
    )


def _better(new: Epoch, best: Epoch) -> bool:
    return new.validation_accuracy > best.validation_accuracy


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}
