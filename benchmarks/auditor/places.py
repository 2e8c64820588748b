"""A set of rows to forget of a world, with what all judgements about it share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from benchmarks.auditor.worlds import Trained
from unlearning import verification
from unlearning.anchored import comparable
from unlearning.anchored import margins as of
from unlearning.core.examples import Examples
from unlearning.verification import ModelScores
from unlearning.verification.statistics.outside import Outside


@dataclass(frozen=True)
class Place:
    """One set of rows to forget of a world, with all that its judgements share."""

    trained: Trained
    which: int

    @property
    def rows(self) -> Tensor:
        """Positions in the training rows."""
        return self.trained.world.sets[self.which]

    @property
    def forget(self) -> Examples:
        """The rows to forget."""
        return self.trained.world.train.subset(self.rows)

    @cached_property
    def outside(self) -> Outside:
        """Out-of-fold margins of all splits, on the base's scale."""
        world, out = self.trained.world, self.trained.out
        held_out = of.of_examples(self.trained.base, world.validation)
        ours, theirs = comparable.of(out, held_out).of(aimed=False)
        kept = torch.ones(len(world.train), dtype=torch.bool)
        kept[self.rows] = False
        return Outside(ours[self.rows].numpy(), theirs.numpy(), ours[kept].numpy())

    def scores(self, model: nn.Module) -> ModelScores:
        """Return the scores of a model on every set."""
        world = self.trained.world
        return ModelScores(
            forget=verification.score(model, self.forget),
            audit=verification.score(model, world.audit),
            retain=verification.score(model, world.retain(self.which)),
            calibration=verification.score(model, world.validation),
        )
