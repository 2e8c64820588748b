"""The updates that are compared: today's step, and the matched one with each base's own targets."""

from __future__ import annotations

from torch import nn

from benchmarks.memorised.models import Base
from benchmarks.memorised.problems import Problem, generator
from unlearning.anchored import margins, preparation, targets
from unlearning.anchored.anchor import Anchor
from unlearning.anchored.preparation import Preparation
from unlearning.anchored.targets import BatchMargins
from unlearning.methods import Context, iau


def anchor(base: Base, problem: Problem) -> Anchor:
    """Return the base's anchor, without a law: every step here is the first of its chain."""
    return preparation.prepare(
        base.model,
        problem.data.train,
        problem.data.validation,
        options=Preparation(law_repeats=0),
        generator=generator(0),
    )


def calibrated(base: Base, problem: Problem, prepared: Anchor) -> nn.Module:
    """Return the model after the step with one gap for all rows."""
    return _unlearn(base, problem, prepared, None)


def matched(base: Base, problem: Problem, prepared: Anchor) -> nn.Module:
    """Return the model after the step with a target for each row."""
    found = targets.fit(
        base.out,
        own=margins.of_examples(base.model, problem.data.train),
        held_out=margins.of_examples(base.model, problem.data.validation),
    )
    return _unlearn(base, problem, prepared, BatchMargins(found.of(problem.rows)))


def _unlearn(
    base: Base, problem: Problem, prepared: Anchor, known: BatchMargins | None
) -> nn.Module:
    return iau.unlearn(
        base.model,
        problem.forget,
        problem.retain,
        options=iau.Options(step="calibrated" if known is None else "matched"),
        context=Context(calibration=problem.data.validation, anchor=prepared, margins=known),
        generator=generator(1),
    ).model
