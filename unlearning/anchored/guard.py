"""The guard of a step from moved weights: paired accuracy and loss on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.core import objective, task
from unlearning.core.examples import Examples


@dataclass(frozen=True)
class Look:
    """Mean rise of the loss and mean drop of the accuracy, the rows used, and the verdict.

    The drop is None if the guard does not look at the accuracy.
    """

    loss_rise: float
    accuracy_drop: float | None
    rows: int
    holds: bool


class PairedGuard:
    """Holds while neither accuracy nor loss of held-out rows worsens beyond a limit.

    Both are differences to ``base`` row by row, so that unchanged rows add no variance. Rows are
    read in growing portions until each mean is ``certainty`` standard errors away from its limit.
    When all ``rows`` are read, the mean drop of the accuracy breaks its limit if it lies more than
    a standard error above, or more than ``excused`` above, and the mean loss if it lies more than
    ``loss_errors`` standard errors above. The standard error of few rows may be as large as a
    drop that nobody would accept: without a bound it would excuse that one too.
    """

    def __init__(
        self,
        base: nn.Module,
        examples: Examples,
        *,
        loss_limit: float,
        accuracy_limit: float,
        rows: int = 2000,
        portion: int = 128,
        certainty: float = 3.0,
        loss_errors: float = 1.0,
        excused: float = math.inf,
    ) -> None:
        self.examples = sample(examples, rows)
        self.base = base
        self.loss_limit = loss_limit
        self.accuracy_limit = accuracy_limit
        self.portion = portion
        self.certainty = certainty
        self.loss_errors = loss_errors
        self.excused = excused
        self._known: list[tuple[Tensor, Tensor]] = []

    def look(self, model: nn.Module, *, chosen: bool = False) -> Look:
        """Compare ``model`` with the base on as many rows as needed.

        ``chosen``: it is one of several models, of which one that holds is taken. That may be the
        luckiest, so a standard error excuses nothing.
        """
        rises = drops = torch.zeros(0, dtype=torch.float64)
        start, size, look = 0, self.portion, 0
        while start < len(self.examples):
            here = torch.arange(start, min(start + size, len(self.examples)))
            rise, drop = self._differences(model, self.examples.subset(here), look)
            rises, drops = torch.cat([rises, rise]), torch.cat([drops, drop])
            sure = [
                self._distance(rises, self.loss_limit),
                self._distance(drops, self.accuracy_limit),
            ]
            if not bool(rises.isfinite().all()) or max(sure) > self.certainty:
                return self._seen(rises, drops, holds=False)
            if max(sure) < -self.certainty:
                return self._seen(rises, drops, holds=True)
            start, size, look = start + len(here), max(size, start + len(here)), look + 1
        if not len(rises):
            return self._seen(rises, drops, holds=True)
        loss_holds = self._distance(rises, self.loss_limit) <= (0 if chosen else self.loss_errors)
        accuracy_holds = self._distance(drops, self.accuracy_limit) <= (0 if chosen else 1)
        if float(drops.mean()) > self.accuracy_limit + self.excused:
            accuracy_holds = False
        return self._seen(rises, drops, holds=loss_holds and accuracy_holds)

    def _differences(self, model: nn.Module, rows: Examples, look: int) -> tuple[Tensor, Tensor]:
        if look == len(self._known):
            self._known.append(_measured(self.base, rows))
        loss, correct = _measured(model, rows)
        known_loss, known_correct = self._known[look]
        return loss - known_loss, known_correct - correct

    @staticmethod
    def _distance(differences: Tensor, limit: float) -> float:
        """Return how many standard errors the mean lies above ``limit``."""
        excess = float(differences.mean()) - limit
        if len(differences) < 2 or not math.isfinite(excess):
            return math.copysign(math.inf, excess)
        error = float(differences.std()) / math.sqrt(len(differences))
        return excess / error if error > 0 else math.copysign(math.inf, excess)

    @staticmethod
    def _seen(rises: Tensor, drops: Tensor, *, holds: bool) -> Look:
        if not len(rises):
            return Look(0.0, 0.0, 0, True)
        rise = float(rises.mean())
        return Look(
            rise if math.isfinite(rise) else math.inf, float(drops.mean()), len(rises), holds
        )


def sample(examples: Examples, rows: int) -> Examples:
    """Return at most ``rows`` held-out examples, always the same in the same order."""
    # Independent of how they are stored.
    order = torch.Generator().manual_seed(0)
    return examples.subset(torch.randperm(len(examples), generator=order)[:rows])


def last_that_holds(
    guard: PairedGuard, path: list[Tensor], load: Callable[[Tensor], nn.Module]
) -> tuple[Tensor, Look, bool]:
    """Return the last point of a path of weights at which the guard holds.

    ``path`` are flat weights (p,); the guard is known to hold at the first. A point between two of
    them is found by bisection. If the path's end does not hold, the others are chosen by what the
    guard sees, and it excuses no standard error. Also return the differences at the point, and
    whether the path's end held.
    """
    seen = guard.look(load(path[-1]))
    if seen.holds:
        return path[-1], seen, True
    index = len(path) - 1
    low, held = path[0], Look(0.0, 0.0, seen.rows, True)
    while index > 1:
        index -= 1
        seen = guard.look(load(path[index]), chosen=True)
        if seen.holds:
            low, held = path[index], seen
            break
    else:
        index = 0
    high = path[index + 1]
    for _ in range(4):
        middle = (low + high) / 2
        seen = guard.look(load(middle), chosen=True)
        if seen.holds:
            low, held = middle, seen
        else:
            high = middle
    return low, held, False


def _measured(model: nn.Module, rows: Examples) -> tuple[Tensor, Tensor]:
    """Return loss and correctness of each row, (n,) float64 on the CPU."""
    logits = objective.logits(model, rows)
    y = rows.labels.to(logits.device)
    loss = task.loss(logits, y)
    return loss.double().cpu(), task.correct(logits, y).double().cpu()
