"""Relearn time: rows that left traces are learned again faster than rows never seen."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional

from unlearning.examples import Examples


@dataclass(frozen=True)
class Options:
    """How the rows are learned again."""

    learning_rate: Annotated[float, Gt(0)] = 1e-3
    #: Give up after this many steps.
    most_steps: Annotated[int, Ge(1)] = 500
    #: At most this many rows of each kind, one full batch per step.
    rows: Annotated[int, Ge(1)] = 512


@dataclass(frozen=True)
class RelearnTime:
    """Steps until the mean loss falls to the base version's forget loss; None when it never did."""

    forget_steps: int | None
    never_seen_steps: int | None

    @property
    def ratio(self) -> float | None:
        """About 1 when the forgotten rows are learned as slowly as rows never seen."""
        if self.forget_steps is None or self.never_seen_steps is None:
            return None
        return (self.forget_steps + 1) / (self.never_seen_steps + 1)


def measure(
    model: nn.Module,
    forget: Examples,
    never_seen: Examples,
    *,
    base_loss: float,
    options: Options | None = None,
    generator: torch.Generator,
) -> RelearnTime:
    """Learn each set on its own from ``model`` until its mean loss is at most ``base_loss``.

    ``base_loss`` is the base version's mean loss on the forget rows. Never-seen rows are drawn
    with the forget rows' class mix where there are enough of them. The model is not changed.
    """
    options = options or Options()
    ours = forget.sample(options.rows, generator=generator)
    theirs = _same_classes(never_seen, ours.labels, generator)
    return RelearnTime(
        forget_steps=_steps(model, ours, base_loss, options),
        never_seen_steps=_steps(model, theirs, base_loss, options),
    )


def _steps(model: nn.Module, examples: Examples, target: float, options: Options) -> int | None:
    """Full-batch Adam steps in eval mode, so that frozen statistics stay frozen."""
    if len(examples) == 0:
        return None
    learner = copy.deepcopy(model).eval()
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=options.learning_rate)
    x, y = next(examples.batches(len(examples), device=parameters[0].device))
    for step in range(options.most_steps + 1):
        loss = functional.cross_entropy(learner(x), y)
        if float(loss.detach()) <= target:
            return step
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward unannotated
        optimiser.step()
    return None


def _same_classes(pool: Examples, labels: Tensor, generator: torch.Generator) -> Examples:
    """Rows of ``pool``, for each class as many as ``labels`` has or as there are."""
    available = pool.labels
    chosen = []
    for label, count in zip(*torch.unique(labels, return_counts=True), strict=True):
        here = torch.nonzero(available == label)[:, 0]
        order = torch.randperm(len(here), generator=generator)
        chosen.append(here[order[: int(count)]])
    return pool.subset(torch.cat(chosen))
