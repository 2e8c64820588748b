"""From the present weights to the targets of a batch, corrected by the retained rows on the way.

1. Two Jacobians move the forgotten rows to their targets, retained rows being held (``matched``).
2. If the network unlearns many answers, the retained rows correct it (``correction``). It may
   become surer of everything, as a training without the rows would.
3. Targets and held margins are of the anchor's scale. After a correction the targets are mapped by
   the validation rows onto the scale that the network now has, and the retained rows are held
   where the correction has put them. Two further Jacobians go there.

They are saved if there was no reason for a correction, the mean validation loss has not changed and
the rows are near their targets already. If they are not near after them, two more follow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unlearning.anchored import correction, margins, matched, targets
from unlearning.anchored.matched import Report, Rows, Settings
from unlearning.core import objective
from unlearning.core.examples import Examples
from unlearning.curvature.kfac import Kfac

#: Share of the training rows at which it matters to the others that the network unlearns answers.
_MANY = 0.005
#: Share at which a correction may take all its steps. Below, it takes fewer in proportion, so that
#: a chain of batches is corrected no more than one batch of all their rows.
_FULL = 0.04
#: Jacobians between two decisions.
_AT_ONCE = 2
#: Share of their distance at which rows count as near their targets.
_NEAR = 0.03


@dataclass(frozen=True)
class Walked:
    """The moved network, the weights (p,) on the way, cost and result of the step.

    ``goal`` (f,) float64: the targets on the network's scale. ``corrected``: gradient steps on
    retained rows that were kept.
    """

    network: nn.Module
    way: list[Tensor]
    report: Report
    goal: Tensor
    corrected: int


def to_targets(
    model: nn.Module,
    forget: Rows,
    pool: Rows,
    *,
    base: nn.Module,
    moved_before: bool,
    trained_rows: int,
    validation: Examples,
    retain: Examples,
    curvature: Kfac | None,
    settings: Settings,
    correcting: correction.Settings,
    generator: torch.Generator,
) -> Walked:
    """Move a copy of ``model`` to the targets of ``forget``, and return it with the way.

    ``pool``: retained rows that may be held, with their margins under the anchor ``base``, whose
    scale the targets are of. ``moved_before``: the model is not at its anchor, which was trained on
    ``trained_rows`` rows. ``retain``: the rows of the correction.
    """
    walk = _Walk(forget, pool, base, validation, curvature, settings, generator)
    start = walk.losses(model)
    if moved_before and _surer(walk.losses(base), start):
        # An earlier batch was corrected: the anchor's margins would undo it.
        walk.rescale(model)
    share = _unlearned(model, forget) / trained_rows
    steps = round(correcting.steps * min(1.0, share / _FULL))
    network, way, report = walk.move(model)
    changed, corrected = correction.differ(start, walk.losses(network)), 0
    if share >= _MANY and steps:
        found = correction.correct(
            network,
            retain,
            validation,
            settings=replace(correcting, steps=steps),
            generator=generator,
        )
        changed, corrected = True, found.steps
    if corrected:
        objective.load(network, found.weights)
        way.append(found.weights)
        walk.rescale(network)
        walk.left = max(1, walk.left)
    while walk.left and (changed or report.after > _NEAR * report.before):
        network, more, later = walk.move(network)
        way, report, changed = way + more[1:], report.then(later), False
    return Walked(network, way, report, walk.goal.targets, corrected)


class _Walk:
    """Where the rows are to go, and how many Jacobians are left."""

    def __init__(
        self,
        forget: Rows,
        pool: Rows,
        base: nn.Module,
        validation: Examples,
        curvature: Kfac | None,
        settings: Settings,
        generator: torch.Generator,
    ) -> None:
        self.goal, self.held, self.left = forget, pool, settings.steps
        self.base, self.validation, self.curvature = base, validation, curvature
        self.settings, self.generator = settings, generator
        self._targets = forget.targets

    def losses(self, network: nn.Module) -> Tensor:
        """Return the losses of the validation rows, (m,)."""
        return objective.losses(network, self.validation, batch_size=self.settings.batch_size)

    def rescale(self, network: nn.Module) -> None:
        """Bring the targets to the scale of ``network``, and hold retained rows where they are."""
        theirs, ours = (self._margins(one, self.validation) for one in (self.base, network))
        self.goal = Rows(self.goal.examples, targets.mapped(self._targets, theirs, ours))
        self.held = Rows(self.held.examples, self._margins(network, self.held.examples))

    def move(self, network: nn.Module) -> tuple[nn.Module, list[Tensor], Report]:
        """Take the next Jacobians; return the moved copy, the weights on the way and the report."""
        steps = min(_AT_ONCE, self.left)
        self.left -= steps
        return matched.move(
            network,
            self.goal,
            self.held,
            curvature=self.curvature,
            settings=replace(self.settings, steps=steps),
            generator=self.generator,
        )

    def _margins(self, network: nn.Module, rows: Examples) -> Tensor:
        return margins.of_examples(network, rows, batch_size=self.settings.batch_size)


def _surer(anchored: Tensor, present: Tensor) -> bool:
    """Return whether the losses of validation rows have fallen since the anchor."""
    return correction.lower(anchored, present) and correction.differ(anchored, present)


def _unlearned(model: nn.Module, forget: Rows) -> int:
    """Return how many labels the model gives that it should not."""
    given = margins.of_examples(model, forget.examples) > 0
    return int((given & (forget.targets <= 0)).sum())
