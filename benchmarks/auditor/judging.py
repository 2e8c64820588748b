"""Judge a network of a world as the service would: default gates, margins of models apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.auditor.worlds import Trained
from unlearning import verification
from unlearning.anchored import comparable
from unlearning.anchored import margins as of
from unlearning.core.examples import Examples
from unlearning.verification import ModelScores
from unlearning.verification.attacks import relearn
from unlearning.verification.attacks.refit import Refit
from unlearning.verification.report import Verification
from unlearning.verification.statistics.outside import Outside
from workers.compute.verifying import REFIT_ROWS, RELEARN_ROWS


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
    def control(self) -> ModelScores:
        """The scores of the base."""
        return self.scores(self.trained.base)

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


#: Two networks that differ in their seed alone differ by a point or two on never-seen rows.
CRITERIA = verification.parse_criteria({"audit_accuracy_drop": 0.02})


@dataclass(frozen=True)
class Scored:
    """A model with its scores."""

    model: nn.Module
    scores: ModelScores


def scored(place: Place, model: nn.Module) -> Scored:
    """Return the model with its scores on every set."""
    return Scored(model, place.scores(model))


def judged(
    place: Place, model: nn.Module, *, only: NDArray[np.int64] | None = None
) -> Verification:
    """Judge a model as an update of the base.

    ``only``: positions of the forgotten rows that the batch consists of; None: all.
    """
    at = np.arange(len(place.rows)) if only is None else only
    return judged_on_scores(place, scored(place, model), at)


def judged_on_scores(
    place: Place, update: Scored, only: NDArray[np.int64], *, attacks: bool = True
) -> Verification:
    """Judge a model by its scores; ``only`` are positions of the forgotten rows of the batch.

    Attacks on the models are made, if at all, as the service makes them, where there are rows
    enough.
    """
    world, base, model = place.trained.world, place.trained.base, update.model
    forget = place.forget.subset(torch.from_numpy(only))
    classes = int(world.train.y.max()) + 1
    retain = world.retain(place.which)
    refit, relearned = None, None
    if attacks and len(forget) >= REFIT_ROWS:
        refit = Refit.of(model, base, forget, world.audit, retain, classes=classes)
    if attacks and len(forget) >= CRITERIA.least_rows:
        relearned = relearn.measure(
            model,
            forget,
            world.audit,
            control=base,
            options=relearn.Options(most_steps=CRITERIA.relearn_steps, rows=RELEARN_ROWS),
            generator=torch.Generator().manual_seed(world.seed),
        )
    return verification.verify(
        _cut(update.scores, only),
        _cut(place.control, only),
        changed=True,
        lineage_clean=True,
        criteria=CRITERIA,
        outside=replace(place.outside, forget=place.outside.forget[only]),
        refit=refit,
        relearn=relearned,
    )


def _cut(scores: ModelScores, rows: NDArray[np.int64]) -> ModelScores:
    return replace(scores, forget=scores.forget.take(rows))
