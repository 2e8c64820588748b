"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from unlearning.core import augmentation, objective, ranks, task, training_state
from unlearning.core.determinism import deterministic
from unlearning.core.epochs import Epoch, Epochs, measure, require_finite
from unlearning.core.examples import Examples
from unlearning.core.recipe import Recipe
from unlearning.core.restriction import restricted_gradients
from unlearning.core.task import TrainingLoss
from unlearning.core.training_state import TrainingState
from unlearning.core.update_log import UpdateLog
from unlearning.errors import WrongOptions
from unlearning.heads.statistics import Statistics

__all__ = [
    "Fit",
    "FittedToMinimum",
    "OwnCode",
    "Recipe",
    "check",
    "fit",
    "loss_of",
    "restricted_gradients",
]


@dataclass(frozen=True)
class Fit:
    """A finished training: the model holds the weights of ``best_epoch`` (counted from 0)."""

    model: nn.Module
    history: tuple[Epoch, ...]
    best_epoch: int
    #: The sums of the training rows, if the weights were solved from them.
    statistics: Statistics | None = None


@runtime_checkable
class OwnCode(Protocol):
    """Training code in place of a recipe (``unlearning.trainers``)."""

    @property
    def name(self) -> str:
        """Return the trainer's name."""

    def train(
        self,
        model: nn.Module,
        train: Examples,
        validation: Examples,
        *,
        seed: int,
        progress: Callable[[float], None],
    ) -> None:
        """Set the weights of ``model``."""


@runtime_checkable
class FittedToMinimum(Protocol):
    """A model that is fitted to its minimum, not by epochs; of the recipe it needs nothing."""

    def fit_to_minimum(
        self, train: Examples, validation: Examples, progress: Callable[[float], None]
    ) -> Statistics:
        """Fit in place; return the statistics of ``train``."""


def fit(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    *,
    recipe: Recipe | OwnCode,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda _fraction: None,
    ended: Callable[[int, Epoch], None] = lambda _epoch, _reached: None,
    log: UpdateLog | None = None,
    kept: training_state.Keep = lambda _state: None,
    resume: TrainingState | None = None,
) -> Fit:
    """Train ``model`` in place; leave it with the weights that ``recipe.keep`` names.

    The same generator state and initial weights give the same weights bit for bit on one machine
    with one number of threads and of ranks: :mod:`ranks` divide each mini-batch, and their weights
    are the same bit for bit. ``ended`` receives every epoch (counted from 0) and its results.
    ``log``, when given, receives the weight difference of each update.

    ``kept`` receives the state after every epoch but the last. With ``resume``, such a state, and a
    model and a generator as at the beginning, the training resumes there and ends with the same
    weights and history as an uninterrupted one.
    Raise ``Diverged`` as soon as the loss is not finite.

    A model that is fitted to its minimum has a history of one epoch; it keeps no state and no log.
    So has one that is trained by code of another package; this gets a seed from ``generator``.
    """
    if not len(train) or not len(validation):
        raise WrongOptions("training needs at least one training and one validation row")
    if isinstance(model, FittedToMinimum):
        found = model.fit_to_minimum(train, validation, progress)
        return _finished(model, train, validation, progress, ended, log, found)
    if not isinstance(recipe, Recipe):
        with _reproducible(generator):
            seed = int(torch.randint(2**31, (), generator=generator))
            recipe.train(model, train, validation, seed=seed, progress=progress)
            # It may draw differently in each process, and knows of no other.
            ranks.copy_first(model)
        return _finished(model, train, validation, progress, ended, log)
    check(recipe, model, train)
    loss = loss_of(recipe, model, train)
    training = Epochs(model, train, validation, recipe, generator, loss, log)
    ranks.copy_first(model)
    with _reproducible(generator) as training.seed:
        if resume is not None:
            training.resume(resume, ended)
        training.run(progress=progress, ended=ended, kept=kept)
    progress(1.0)
    return Fit(model, tuple(training.history), training.best_epoch)


def check(recipe: Recipe | OwnCode, model: nn.Module, train: Examples) -> None:
    """Raise ``WrongOptions`` if the recipe cannot train the model on such rows."""
    closed = isinstance(model, FittedToMinimum)
    if isinstance(recipe, Recipe):
        if not closed:
            augmentation.check(recipe, train)
            loss_of(recipe, model, train)
    elif closed:
        raise WrongOptions(
            f"this network is fitted to its minimum and takes no trainer: leave {recipe.name} out "
            "of the recipe"
        )


def loss_of(recipe: Recipe | OwnCode, model: nn.Module, train: Examples) -> TrainingLoss:
    """Return what a training of ``model`` on ``train`` minimises, without its restriction.

    What code of another package minimises is not known: the loss itself is assumed.
    """
    if isinstance(model, FittedToMinimum) or not isinstance(recipe, Recipe):
        return task.PLAIN
    weights = None
    if recipe.class_weights != "none":
        classes = objective.logits(model, train.subset(torch.zeros(1, dtype=torch.int64))).shape[1]
        if recipe.class_weights == "balanced":
            weights = task.balanced_weights(train.labels, classes)
        elif len(recipe.class_weights) != classes:
            raise WrongOptions(
                f"recipe.class_weights gives {len(recipe.class_weights)} weights and the network "
                f"has {classes} classes: give one for each"
            )
        else:
            weights = torch.tensor(recipe.class_weights)
    return TrainingLoss(recipe.label_smoothing, weights)


def _finished(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    progress: Callable[[float], None],
    ended: Callable[[int, Epoch], None],
    log: UpdateLog | None,
    statistics: Statistics | None = None,
) -> Fit:
    """Return the result of a training without epochs of ours, as of one epoch."""
    model.eval()
    reached = measure(
        model,
        validation,
        training_loss=float(objective.losses(model, train).double().mean()),
        learning_rate=None,
    )
    require_finite("validation loss", reached.validation_loss, 0)
    ended(0, reached)
    if log is not None:
        log.complete = False  # there are no updates to take back
    progress(1.0)
    return Fit(model, (reached,), 0, statistics)


@contextmanager
def _reproducible(generator: torch.Generator) -> Iterator[int]:
    """Seed the global generators, from which dropout draws, and restore them afterwards.

    Yield the seed.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(), deterministic():
        torch.manual_seed(seed)
        yield seed
