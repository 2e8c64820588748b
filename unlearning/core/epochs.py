"""The epochs of a training with a recipe, one after another, from any of them on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unlearning.core import augmentation, objective, ranks, schedules, task, training_state
from unlearning.core.augmentation import Moves
from unlearning.core.examples import Examples, pieces
from unlearning.core.recipe import Recipe
from unlearning.core.restriction import restricted_gradients
from unlearning.core.task import TrainingLoss
from unlearning.core.training_state import TrainingState
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


@dataclass
class Epochs:
    """A training with a recipe, and what its epochs so far came to."""

    model: nn.Module
    train: Examples
    validation: Examples
    recipe: Recipe
    generator: torch.Generator
    loss: TrainingLoss
    log: UpdateLog | None = None
    history: list[Epoch] = field(default_factory=list)
    #: The weights of ``best_epoch`` (counted from 0), if the recipe keeps the best ones.
    best: Mapping[str, Tensor] = field(default_factory=dict)
    best_epoch: int = -1
    #: Seed of what is drawn during an epoch on several ranks, such as dropout.
    seed: int = 0

    def __post_init__(self) -> None:
        batches = pieces(len(self.train), self.recipe.batch_size)
        _check_batches_of_one(self.model, self.train, batches)
        at_once = self.recipe.accumulate
        self._updates = [batches[at : at + at_once] for at in range(0, len(batches), at_once)]
        self._optimiser = _optimiser(self.model, self.recipe)

    def resume(self, state: TrainingState, ended: Callable[[int, Epoch], None]) -> None:
        """Continue from a state that was kept; ``ended`` receives the epochs before it again."""
        training_state.restore(
            state, self.model, self._optimiser, generator=self.generator, log=self.log
        )
        self.history = [
            Epoch(training_loss, held_out, accuracy, self._last_rate(epoch))
            for epoch, (training_loss, held_out, accuracy) in enumerate(state.history.tolist())
        ]
        self.best, self.best_epoch = state.best, state.best_epoch
        for epoch, earlier in enumerate(self.history):
            ended(epoch, earlier)

    def run(
        self,
        *,
        progress: Callable[[float], None],
        ended: Callable[[int, Epoch], None],
        kept: training_state.Keep,
    ) -> None:
        """Do the epochs that are left; leave the model with the weights that the recipe keeps."""
        for epoch in range(len(self.history), self.recipe.epochs):
            self.history.append(self._epoch(epoch, progress))
            ended(epoch, self.history[-1])
            if not self._goes_on(epoch):
                break
            if epoch + 1 < self.recipe.epochs:
                kept(self._state())
        if self.recipe.keep == "best":
            self.model.load_state_dict(self.best)
        self.model.eval()
        if self.log is not None:
            self.log.keep((self.best_epoch + 1) * len(self._updates))

    def _epoch(self, epoch: int, progress: Callable[[float], None]) -> Epoch:
        """Make the updates of one epoch, in a random order of the rows; return its results."""
        self.model.train()
        if ranks.count() > 1:
            # Each rank draws for its own rows. Drawn anew for each epoch, so that a training that
            # is resumed needs the states of no other rank than the first.
            torch.manual_seed((self.seed + epoch * ranks.count() + ranks.own()) % 2**63)
        total = torch.zeros((), dtype=torch.float64)
        order = torch.randperm(len(self.train), generator=self.generator)
        moves = augmentation.draw(self.recipe, len(self.train), generator=self.generator)
        for step, group in enumerate(self._updates):
            schedules.set_rate(self._optimiser, self._rate(epoch, step))
            rows = [order[here] for here in group]
            reached = self._update(rows, moves)
            require_finite("loss", reached, epoch)
            total += reached * sum(map(len, rows))
            if step % 16 == 0:
                progress((epoch + step / len(self._updates)) / self.recipe.epochs)
        ranks.average_statistics(self.model)
        found = measure(
            self.model,
            self.validation,
            training_loss=float(total) / len(self.train),
            learning_rate=self._last_rate(epoch),
        )
        require_finite("validation loss", found.validation_loss, epoch)
        return found

    def _update(self, rows: Sequence[Tensor], moves: Moves | None) -> float:
        """Make one update from the mini-batches of ``rows``; return their mean training loss."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        count = sum(map(len, rows))
        mean, total = 0.0, [torch.zeros_like(p) for p in trained] if len(rows) > 1 else []
        for here in rows:
            division = ranks.of_batch(len(here))
            mine = division.rows(here)
            x, y = self.train.subset(mine).whole(device=trained[0].device)
            if moves is not None:
                x = moves.apply(x, mine)
            reached, grads = restricted_gradients(
                self.model, x, y, recipe=self.recipe, loss=self.loss, division=division
            )
            if len(rows) == 1:
                mean, total = float(reached), grads
            else:
                mean += float(reached) * len(here) / count
                torch._foreach_add_(total, grads, alpha=len(here) / count)
        for p, grad in zip(trained, total, strict=True):
            p.grad = grad
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(trained, self.recipe.clip_norm)
        before = None if self.log is None else objective.flatten(self.model)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        if self.log is not None and before is not None:
            positions = self.train.subset(torch.cat(list(rows))).positions
            self.log.append(positions, objective.flatten(self.model) - before)
        return mean

    def _goes_on(self, epoch: int) -> bool:
        """Note the last epoch if it is the one to keep; return whether another may be better."""
        if self.recipe.keep == "last":
            self.best_epoch = epoch
        elif self.best_epoch < 0 or _better(self.history[-1], self.history[self.best_epoch]):
            self.best, self.best_epoch = _weights(self.model), epoch
        else:
            return epoch - self.best_epoch < self.recipe.patience
        return True

    def _state(self) -> TrainingState:
        return training_state.capture(
            self.model,
            self._optimiser,
            best=self.best,
            best_epoch=self.best_epoch,
            history=_rows(self.history),
            generator=self.generator,
            log=self.log,
        )

    def _rate(self, epoch: int, update: int) -> float:
        per_epoch = len(self._updates)
        return schedules.rate(self.recipe, epoch * per_epoch + update, per_epoch=per_epoch)

    def _last_rate(self, epoch: int) -> float:
        return self._rate(epoch, len(self._updates) - 1)


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
    first = train.subset(torch.zeros(1, dtype=torch.int64))
    x, _ = first.whole(device=next(model.parameters()).device)
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


def measure(
    model: nn.Module, validation: Examples, *, training_loss: float, learning_rate: float | None
) -> Epoch:
    """Return the results of an epoch: those given, and those on the validation rows."""
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


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}
