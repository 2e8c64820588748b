"""Common parts of the methods that continue training a copy of the model.

A method gives a stream of losses; each loss is followed by one step of SGD. All of them follow two
rules:

- Rows to forget pass through the network in evaluation mode: in train mode they would change the
  batch-norm statistics. Passes over retained rows alone run in train mode, as in the authors'
  programs, and end with the statistics recomputed from retained rows.
- Dropout draws from PyTorch's global generator, which is seeded from the caller's generator and
  restored afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from unlearning.anchored import calibration
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.errors import WrongOptions
from unlearning.methods import _strength
from unlearning.methods._contract import Context, Update

#: Retained rows from which batch-norm statistics are computed.
STATISTICS_ROWS = 2048

#: Losses of one epoch, in order; the network changes between them.
Losses = Callable[[nn.Module, int], Iterator[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Options(_strength.Options):
    """Settings of the descent that every fine-tuning method shares."""

    learning_rate: Annotated[float, Gt(0), Le(10)] = 0.01
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0), Le(1)] = 0.0
    epochs: Annotated[int, Ge(1), Le(1000)] = 10
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 64


def run(
    model: nn.Module,
    losses: Losses,
    *,
    options: Options,
    forget: Examples,
    retain: Examples,
    context: Context,
    generator: torch.Generator,
    start: nn.Module | None = None,
    finish: Callable[[nn.Module], nn.Module] = lambda network: network,
    rates: Mapping[str, Tensor] | None = None,
    attempts: int = 3,
) -> Update:
    """Follow ``losses`` for ``options.epochs`` epochs on a copy of ``start`` (the model itself).

    ``finish`` makes the result out of the trained network. ``rates``: name → factor on the
    learning rate of each weight, floating point in the parameter's shape; 0 keeps the weight.

    Calibrated strength: training ends after the first epoch whose weights are past the target; then
    the point that meets it is searched on the line from θ₀ to those weights. That costs a few
    forward passes beyond the training and never extrapolates. The learning rate need not suit this
    network: if the target is not reached, training starts again with ten times the rate, if the
    guard fires with a tenth of it, at most ``attempts`` times in all.
    """
    course = Course(start or model, losses, finish, rates or {})
    with seeded_dropout(model, generator):
        if options.strength == "authors":
            moved = course.start
            for network in course.epochs(options, context.progress):
                moved = network
            moved = _strength.checked(copy.deepcopy(finish(moved)).eval())
            rate = options.learning_rate
            notes = {"strength": "authors", "learning_rate": rate, "epochs": options.epochs}
            return Update(model=moved, notes=notes)
        aim = _strength.aim(
            model, forget, retain, options=options, context=context, generator=generator
        )
        sample = retain.sample(STATISTICS_ROWS, generator=generator)
        return _calibrated(model, course, aim, options, context, sample, attempts)


@dataclass(frozen=True)
class Course:
    """Start, losses and end of a fine-tuning."""

    start: nn.Module
    losses: Losses
    finish: Callable[[nn.Module], nn.Module] = lambda network: network
    rates: Mapping[str, Tensor] = field(default_factory=dict)

    def epochs(self, options: Options, progress: Callable[[float], None]) -> Iterator[nn.Module]:
        """Yield the network after each epoch; it is the same one every time."""
        network = copy.deepcopy(self.start).eval()
        optimiser = torch.optim.SGD(
            [p for p in network.parameters() if p.requires_grad],
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        parameters = dict(network.named_parameters())
        rated = [(parameters[name], rate) for name, rate in self.rates.items()]
        for epoch in range(options.epochs):
            for loss in self.losses(network, epoch):
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                before = [p.detach().clone() for p, _ in rated]
                optimiser.step()
                _shorten(rated, before)
            optimiser.zero_grad(set_to_none=True)
            network.eval()
            progress((epoch + 1) / options.epochs)
            yield network


def forgotten(
    network: nn.Module, forget: Examples, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled mini-batches of the rows to forget, with the network in evaluation mode."""
    network.eval()
    yield from forget.batches(batch_size, device=device_of(network), generator=generator)


def retained(
    network: nn.Module, retain: Examples, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled mini-batches of retained rows, with the network in train mode."""
    for x, y in retain.batches(batch_size, device=device_of(network), generator=generator):
        # One row has no variance, which batch norm refuses.
        network.train(len(x) > 1)
        yield x, y
    network.eval()
    # Running averages lag behind the weights; after a short pass they would break the network.
    sample = retain.sample(STATISTICS_ROWS, generator=generator)
    objective.recalibrate_batch_norm(network, sample)


def relabelled(examples: Examples, labels: Tensor) -> Examples:
    """Return the same rows with other ``labels`` (n,) int64."""
    if examples.rows is None:
        return Examples(examples.x, labels)
    y = examples.y.clone()
    y[examples.rows] = labels
    return Examples(examples.x, y, examples.rows)


def retained_classes(forget: Examples, retain: Examples) -> Tensor:
    """Return the classes in ``retain``, (k,) int64 ascending; only these may be taught as labels.

    A class that was forgotten earlier has no retained rows. If it were used as a wrong label, it
    would come back.
    """
    classes = retain.labels.cpu().bincount().nonzero()[:, 0]
    if len(classes) == 1 and bool((forget.labels == classes[0]).any()):
        raise WrongOptions(
            "the retained rows are all of one class, so the rows to forget have no wrong label to "
            "be taught: choose a method without labels, or retrain"
        )
    return classes


def wrong_labels(labels: Tensor, *, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw another label for each of (n,) int64, uniform over the wrong ones among ``classes``.

    ``classes`` (k,) int64, ascending; a label need not be among them.
    """
    labels, k = labels.cpu(), len(classes)
    offsets = torch.randint(1, max(k, 2), labels.shape, generator=generator)
    others = (torch.searchsorted(classes, labels) + offsets) % k
    if not bool((foreign := torch.isin(labels, classes, invert=True)).any()):
        return classes[others]
    anything = torch.randint(k, labels.shape, generator=generator)
    return classes[torch.where(foreign, anything, others)]


def class_count(model: nn.Module, examples: Examples) -> int:
    """Return the number of logits that the model gives."""
    return objective.logits(model, examples.subset(torch.tensor([0]))).shape[-1]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's parameters."""
    return next(model.parameters()).device


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose parameters take no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@contextmanager
def seeded_dropout(network: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Seed PyTorch's global generators from ``generator`` for the block, then restore them."""
    device = device_of(network)
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _calibrated(
    model: nn.Module,
    course: Course,
    aim: _strength.Aim,
    options: Options,
    context: Context,
    sample: Examples,
    attempts: int,
) -> Update:
    """Return the update of the learning rate that meets the aim, or comes nearest to it."""
    tried: dict[int, Update] = {}
    power = 0
    while power not in tried and len(tried) < attempts:
        rate = options.learning_rate * 10.0**power
        settings = replace(options, learning_rate=rate)
        moved, epochs, diverged = _past_target(course, aim.goal, settings, context)
        apply = _strength.chord(model, moved, retained=sample)
        update = _strength.search(apply, aim=aim, ceiling=1.0)
        notes = {**update.notes, "learning_rate": rate, "epochs": epochs}
        tried[power] = replace(update, notes=notes)
        if aim.goal is None or not update.retrain_because:
            return tried[power]
        power += -1 if diverged or update.notes["status"] == "guarded" else 1
    return max(tried.values(), key=lambda update: update.notes["reached"])


def _past_target(
    course: Course, goal: calibration.Goal | None, options: Options, context: Context
) -> tuple[nn.Module, int, bool]:
    """Return the first weights past the target or the last finite ones, epochs, and divergence."""
    moved, done = course.finish(course.start), 0
    for network in course.epochs(options, context.progress):
        # A copy, because the next epoch may diverge.
        finished = copy.deepcopy(course.finish(network))
        if not _strength.finite(finished):
            return moved, done, True
        moved, done = finished, done + 1
        if goal is not None and goal.measure(moved) >= goal.target:
            break
    return moved, done, False


@torch.no_grad()
def _shorten(rated: list[tuple[nn.Parameter, Tensor]], before: list[Tensor]) -> None:
    # Scaling the gradient alone would still let weight decay act at full rate.
    for (parameter, rate), start in zip(rated, before, strict=True):
        parameter.copy_(torch.lerp(start, parameter, rate))
