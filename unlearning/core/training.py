"""The training loop, with the gradient-restriction loss.

The restricted loss is ℓ + α·‖∇ℓ‖ over the mini-batch's gradient (gradient restriction,
arXiv 2507.23257): examples with a small gradient leave less to undo when they must be forgotten.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from unlearning.core import objective, task, training_state
from unlearning.core.determinism import deterministic
from unlearning.core.examples import Examples, pieces
from unlearning.core.training_state import TrainingState
from unlearning.core.update_log import UpdateLog
from unlearning.errors import Diverged, WrongOptions
from unlearning.heads.statistics import Statistics


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The defaults are the published setting."""

    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Gt(0), Le(10)] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0), Le(1)] = 0.0
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 64
    epochs: Annotated[int, Ge(1), Le(10_000)] = 200
    #: Epochs without a better validation accuracy before training stops.
    patience: Annotated[int, Ge(1), Le(10_000)] = 10
    #: Weight α of the gradient restriction; 0 turns it off.
    alpha: Annotated[float, Ge(0), Le(10)] = 0.005
    #: ``finite_difference`` takes two plain passes and works for any operator;
    #: ``double_backward`` is exact and several times dearer.
    restriction: Literal["finite_difference", "double_backward"] = "finite_difference"
    #: ``per_tensor``: the sum of the norms of each parameter tensor's gradient;
    #: ``joint``: the norm of the whole gradient.
    norm: Literal["per_tensor", "joint"] = "per_tensor"
    #: Step r of the finite difference. Below about 1e-3 float32 rounding takes over.
    radius: Annotated[float, Gt(0), Le(1)] = 1e-2


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch."""

    training_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Fit:
    """A finished training: the model holds the weights of ``best_epoch`` (counted from 0)."""

    model: nn.Module
    history: tuple[Epoch, ...]
    best_epoch: int
    #: The sums of the training rows, if the weights were solved from them.
    statistics: Statistics | None = None


@runtime_checkable
class ClosedForm(Protocol):
    """A model that is fitted in closed form; of the recipe it needs nothing."""

    def fit_in_closed_form(
        self, train: Examples, validation: Examples, progress: Callable[[float], None]
    ) -> Statistics:
        """Fit in place; return the statistics of ``train``."""


def fit(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    *,
    recipe: Recipe,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda _fraction: None,
    ended: Callable[[int, Epoch], None] = lambda _epoch, _reached: None,
    log: UpdateLog | None = None,
    kept: training_state.Keep = lambda _state: None,
    resume: TrainingState | None = None,
) -> Fit:
    """Train ``model`` in place and leave it with its best weights on the validation rows.

    The same generator state and initial weights give the same weights bit for bit on one machine
    with one number of threads. ``ended`` receives every epoch (counted from 0) and its results.
    ``log``, when given, receives the weight difference of each batch.

    ``kept`` receives the state after every epoch but the last. With ``resume``, such a state, and a
    model and a generator as at the beginning, the training resumes there and ends with the same
    weights and history as an uninterrupted one.
    Raise ``Diverged`` as soon as the loss is not finite.

    A model that is fitted in closed form has a history of one epoch; it keeps no state and no log.
    """
    if not len(train) or not len(validation):
        raise WrongOptions("training needs at least one training and one validation row")
    if isinstance(model, ClosedForm):
        return _in_closed_form(model, train, validation, progress, ended, log)
    batches = pieces(len(train), recipe.batch_size)
    _check_batches_of_one(model, train, batches)
    optimiser = _optimiser(model, recipe)
    history: list[Epoch] = []
    best: Mapping[str, Tensor] = _state(model)
    best_epoch = -1
    with _reproducible(generator):
        if resume is not None:
            training_state.restore(resume, model, optimiser, generator=generator, log=log)
            history = [Epoch(*reached) for reached in resume.history.tolist()]
            best, best_epoch = resume.best, resume.best_epoch
        for epoch in range(len(history), recipe.epochs):
            model.train()
            total = torch.zeros((), dtype=torch.float64)
            order = torch.randperm(len(train), generator=generator)
            for step, here in enumerate(batches):
                batch = train.subset(order[here])
                loss = _step(model, batch, optimiser, recipe, log)
                _require_finite("loss", loss, epoch)
                total += loss * len(batch)
                if step % 16 == 0:
                    progress((epoch + step / len(batches)) / recipe.epochs)
            history.append(_measure(model, validation, float(total) / len(train)))
            _require_finite("validation loss", history[-1].validation_loss, epoch)
            ended(epoch, history[-1])
            if best_epoch < 0 or _better(history[-1], history[best_epoch]):
                best, best_epoch = _state(model), epoch
            elif epoch - best_epoch >= recipe.patience:
                break
            if epoch + 1 < recipe.epochs:
                kept(
                    training_state.capture(
                        model,
                        optimiser,
                        best=best,
                        best_epoch=best_epoch,
                        history=_rows(history),
                        generator=generator,
                        log=log,
                    )
                )
    model.load_state_dict(best)
    model.eval()
    if log is not None:
        log.keep((best_epoch + 1) * len(batches))
    progress(1.0)
    return Fit(model, tuple(history), best_epoch)


def restricted_gradients(
    model: nn.Module, x: Tensor, y: Tensor, *, recipe: Recipe
) -> tuple[Tensor, list[Tensor]]:
    """Return the mini-batch's mean loss, and gradients of loss + α·‖gradient‖ per parameter.

    With v = g/‖g‖ (joint) or the concatenation of gₖ/‖gₖ‖ (per tensor), the restriction's gradient
    is the Hessian-vector product ∇²L·v: by a second backward pass, or as
    (∇L(θ + r·v) − ∇L(θ))/r.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not recipe.alpha:
        return _gradients(model, x, y, parameters)
    if recipe.restriction == "double_backward":
        return _by_double_backward(model, x, y, parameters, recipe)
    return _by_finite_difference(model, x, y, parameters, recipe)


def _in_closed_form(
    model: ClosedForm,
    train: Examples,
    validation: Examples,
    progress: Callable[[float], None],
    ended: Callable[[int, Epoch], None],
    log: UpdateLog | None,
) -> Fit:
    assert isinstance(model, nn.Module)
    found = model.fit_in_closed_form(train, validation, progress)
    model.eval()
    reached = _measure(model, validation, float(objective.losses(model, train).double().mean()))
    _require_finite("validation loss", reached.validation_loss, 0)
    ended(0, reached)
    if log is not None:
        log.complete = False  # there are no updates to take back
    progress(1.0)
    return Fit(model, (reached,), 0, statistics=found)


def _require_finite(name: str, loss: float, epoch: int) -> None:
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
    batch: Examples,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    log: UpdateLog | None,
) -> float:
    device = next(model.parameters()).device
    ((x, y),) = batch.batches(len(batch), device=device)
    loss, grads = restricted_gradients(model, x, y, recipe=recipe)
    before = None if log is None else objective.flatten(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    for p, grad in zip(trained, grads, strict=True):
        p.grad = grad
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if log is not None and before is not None:
        log.append(batch.positions, objective.flatten(model) - before)
    return float(loss)


def _gradients(
    model: nn.Module, x: Tensor, y: Tensor, parameters: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    loss = task.loss(model(x), y).mean()
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return loss.detach(), list(grads)


def _by_double_backward(
    model: nn.Module, x: Tensor, y: Tensor, parameters: list[Tensor], recipe: Recipe
) -> tuple[Tensor, list[Tensor]]:
    loss = task.loss(model(x), y).mean()
    grads = torch.autograd.grad(
        loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    norms = torch.stack([torch.linalg.vector_norm(g) for g in grads])
    restriction = norms.sum() if recipe.norm == "per_tensor" else torch.linalg.vector_norm(norms)
    total = loss + recipe.alpha * restriction
    final = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return loss.detach(), list(final)


def _by_finite_difference(
    model: nn.Module, x: Tensor, y: Tensor, parameters: list[Tensor], recipe: Recipe
) -> tuple[Tensor, list[Tensor]]:
    states = _random_states(model, x)
    loss, grads = _gradients(model, x, y, parameters)
    norms = torch.stack(torch._foreach_norm(grads))
    if recipe.norm == "joint":
        norms = torch.linalg.vector_norm(norms).expand(len(grads))
    # A zero gradient has no direction: dividing by infinity gives zero.
    scales = torch.where(norms > 0, norms, torch.inf).reciprocal()
    direction = torch._foreach_mul(grads, list(scales.unbind()))
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(parameters, direction, alpha=recipe.radius)
    try:
        # Both passes must drop the same units, or the difference would measure the dropout.
        for restore, state in states:
            restore(state)
        with _statistics_kept(model):
            _, moved = _gradients(model, x, y, parameters)
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)
    # g + α·(g' − g)/r
    weight = recipe.alpha / recipe.radius
    torch._foreach_mul_(grads, 1 - weight)
    torch._foreach_add_(grads, moved, alpha=weight)
    return loss, grads


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Keep running batch-norm statistics unchanged by forward passes in train mode."""
    layers = [
        m
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats
    ]
    kept = [
        (m.momentum, None if (c := m.num_batches_tracked) is None else c.clone()) for m in layers
    ]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, kept, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)


@contextmanager
def _reproducible(generator: torch.Generator) -> Iterator[None]:
    """Seed the global generators, from which dropout draws, and restore them afterwards."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(), deterministic():
        torch.manual_seed(seed)
        yield


def _random_states(model: nn.Module, x: Tensor) -> list[tuple[Callable[[Tensor], None], Tensor]]:
    """Return the states of the generators from which dropout draws; empty without dropout."""
    if not any(isinstance(m, nn.modules.dropout._DropoutNd) for m in model.modules()):
        return []
    states: list[tuple[Callable[[Tensor], None], Tensor]] = [
        (torch.set_rng_state, torch.get_rng_state())
    ]
    if x.is_cuda:
        states.append((torch.cuda.set_rng_state, torch.cuda.get_rng_state(x.device)))
    return states


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimiser == "adam":
        return torch.optim.Adam(
            parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


def _measure(model: nn.Module, validation: Examples, training_loss: float) -> Epoch:
    logits = objective.logits(model, validation)
    y = validation.labels.to(logits.device)
    return Epoch(
        training_loss=training_loss,
        validation_loss=float(task.loss(logits, y).double().mean()),
        validation_accuracy=float(task.correct(logits, y).double().mean()),
    )


def _rows(history: Sequence[Epoch]) -> Tensor:
    return torch.tensor([astuple(epoch) for epoch in history], dtype=torch.float64)


def _better(new: Epoch, best: Epoch) -> bool:
    return new.validation_accuracy > best.validation_accuracy


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}
