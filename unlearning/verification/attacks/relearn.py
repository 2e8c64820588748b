"""Relearn time: rows that left traces are relearned faster than rows never seen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from unlearning.core import task
from unlearning.core.examples import Examples


@dataclass(frozen=True)
class Options:
    """Settings of relearning."""

    learning_rate: Annotated[float, Gt(0)] = 1e-3
    #: Give up after this many steps.
    most_steps: Annotated[int, Ge(1)] = 500
    #: At most this many rows of each kind, one full batch per step.
    rows: Annotated[int, Ge(1)] = 512


@dataclass(frozen=True)
class RelearnTime:
    """Steps until the mean loss falls to the base version's forget loss; None if it never does."""

    forget_steps: int | None
    never_seen_steps: int | None
    #: Rows relearned on either side, the same number of each class.
    rows: int
    #: The same for the base version, which still holds the rows, and models trained without them.
    control: RelearnTime | None = None
    references: tuple[RelearnTime, ...] = ()
    #: After so many steps a set counts as never relearned.
    most_steps: int | None = None

    @property
    def largest_ratio(self) -> float | None:
        """Return an upper limit of the ratio where never-seen rows alone were not relearned."""
        if self.forget_steps is None or self.never_seen_steps is not None:
            return None
        if not self.rows or self.most_steps is None:
            return None
        return (self.forget_steps + 1) / (self.most_steps + 2)

    @property
    def ratio(self) -> float | None:
        """Return the ratio of both times; about 1 if forgotten rows are like rows never seen."""
        if self.forget_steps is None or self.never_seen_steps is None:
            return None
        return (self.forget_steps + 1) / (self.never_seen_steps + 1)


def measure(
    model: nn.Module,
    forget: Examples,
    never_seen: Examples,
    *,
    control: nn.Module,
    references: Sequence[nn.Module] = (),
    options: Options | None = None,
    known: RelearnTime | None = None,
    generator: torch.Generator,
) -> RelearnTime:
    """Train each set on its own from ``model`` until its mean loss is at most the base's.

    The target is the mean loss of ``control``, the base version, on the forget rows that are
    relearned. Fewer rows are learned in fewer steps, independent of what was seen, so both sides
    have the same number of rows of each class: that of the smaller side. No model is changed.

    ``known``: the control's times, as an earlier measurement with the same rows, options and
    state of the generator gave them; they are not measured again.
    """
    options = options or Options()
    sampled = forget.sample(options.rows, generator=generator)
    ours, theirs = _alike(sampled, never_seen, generator)
    target = _mean_loss(control, ours)

    def times(learner: nn.Module) -> RelearnTime:
        return RelearnTime(
            forget_steps=_steps(learner, ours, target, options),
            never_seen_steps=_steps(learner, theirs, target, options),
            rows=len(ours),
            most_steps=options.most_steps,
        )

    return replace(
        times(model),
        control=known or times(control),
        references=tuple(times(r) for r in references),
    )


@torch.no_grad()
def _mean_loss(model: nn.Module, examples: Examples) -> float:
    """Return the mean loss as the steps compute it, so that the base version needs 0 steps."""
    if len(examples) == 0:
        return 0.0
    learner = copy.deepcopy(model).eval()
    device = next(learner.parameters()).device
    x, y = next(examples.batches(len(examples), device=device))
    return float(task.loss(learner(x), y).mean())


def _steps(model: nn.Module, examples: Examples, target: float, options: Options) -> int | None:
    """Count full-batch Adam steps to the target, in eval mode; None if it is not reached."""
    if len(examples) == 0:
        return None
    learner = copy.deepcopy(model).eval()
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=options.learning_rate)
    x, y = next(examples.batches(len(examples), device=parameters[0].device))
    for step in range(options.most_steps + 1):
        loss = task.loss(learner(x), y).mean()
        if float(loss.detach()) <= target:
            return step
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward unannotated
        optimiser.step()
    return None


def _alike(
    forget: Examples, never_seen: Examples, generator: torch.Generator
) -> tuple[Examples, Examples]:
    """Draw from both sets as many rows of each class as both have."""
    ours, theirs = forget.labels, never_seen.labels
    size = int(torch.cat([ours, theirs]).max()) + 1
    counts = torch.minimum(
        torch.bincount(ours, minlength=size), torch.bincount(theirs, minlength=size)
    )
    return (
        forget.subset(_drawn(ours, counts, generator)),
        never_seen.subset(_drawn(theirs, counts, generator)),
    )


def _drawn(labels: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Draw positions of ``counts[c]`` rows of every class c, without replacement."""
    chosen = []
    for label, count in enumerate(counts.tolist()):
        here = torch.nonzero(labels == label)[:, 0]
        chosen.append(here[torch.randperm(len(here), generator=generator)[:count]])
    return torch.cat(chosen)
