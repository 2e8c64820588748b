"""The trained model, its anchor and targets, and the updates that are timed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unlearning import methods, verification
from unlearning.anchored import anchor as anchors
from unlearning.anchored import margins
from unlearning.anchored.anchor import Anchor
from unlearning.anchored.targets import BatchMargins, Targets
from unlearning.core import objective, options
from unlearning.core.examples import Examples
from unlearning.methods import Context
from unlearning.verification import ModelScores

Train = Callable[[Examples, int], nn.Module]


@dataclass(frozen=True)
class Measured:
    """One method on one number of forgotten rows; ``rms``: of margins to the retrained mean's."""

    forgotten: int
    method: str
    seconds: float
    test_accuracy: float
    forget_accuracy: float
    auc: float
    auc_low: float
    auc_high: float
    calibrated_auc: float
    rms: float


@dataclass(frozen=True)
class Bench:
    """The trained model and everything that is measured against it.

    ``train`` returns a network trained on rows with a seed.
    """

    rows: Examples
    validation: Examples
    test: Examples
    train: Train
    model: nn.Module
    anchor: Anchor
    targets: Targets

    def chosen(self, count: int) -> Tensor:
        """Return the first ``count`` training rows of a random order of their own, (count,)."""
        generator = torch.Generator().manual_seed(count)
        return torch.randperm(len(self.rows), generator=generator)[:count]

    def without(self, rows: Tensor) -> Examples:
        """Return the training rows without ``rows``."""
        kept = torch.ones(len(self.rows), dtype=torch.bool)
        kept[rows] = False
        return self.rows.subset(kept.nonzero()[:, 0])

    def unlearn(
        self,
        rows: Tensor,
        step: str,
        *,
        model: nn.Module | None = None,
        forgotten: anchors.Forgotten | None = None,
        gone: Tensor | None = None,
    ) -> methods.Update:
        """Forget ``rows``; from ``model``, which has forgotten ``gone`` before, if it is given."""
        method = methods.get("iau")
        everything = rows if gone is None else torch.cat([rows, gone])
        # Retained rows without those erased before: the step may not look at them.
        return method.unlearn(
            self.model if model is None else model,
            self.rows.subset(rows),
            self.without(everything),
            options=options.parse(method.options, {"step": step}),
            context=Context(
                calibration=self.validation,
                anchor=self.anchor,
                forgotten=forgotten,
                moved=gone is not None,
                margins=BatchMargins(self.targets.of(rows)) if step == "matched" else None,
            ),
            generator=torch.Generator().manual_seed(0),
        )

    def line(
        self,
        method: str,
        rows: Tensor,
        seconds: float,
        models: Sequence[nn.Module],
        retrained: Sequence[nn.Module],
    ) -> Measured:
        """Measure models, averaged, against models that were retrained without the rows.

        A retrained model is compared with the others of its kind.
        """
        forget = self.rows.subset(rows)
        control = self._scores(self.model, forget)
        found = []
        for model in models:
            scores = self._scores(model, forget)
            others = [one for one in retrained if one is not model]
            found.append(
                (
                    float(scores.audit.correct.mean()),
                    float(scores.forget.correct.mean()),
                    *_auc(scores, control),
                    *self._calibrated(model, others, forget),
                )
            )
        mean = [statistics.mean(values) for values in zip(*found, strict=True)]
        return Measured(len(rows), method, seconds, *mean)

    def _scores(self, model: nn.Module, forget: Examples) -> ModelScores:
        return ModelScores(
            forget=verification.score(model, forget),
            audit=verification.score(model, self.test),
        )

    def _calibrated(
        self, model: nn.Module, others: Sequence[nn.Module], forget: Examples
    ) -> tuple[float, float]:
        """Return the AUC of the margin less the others' mean margin, and its rms on forget rows."""
        if not others:
            return float("nan"), float("nan")

        def excess(rows: Examples) -> Tensor:
            expected = torch.stack([margins.of_examples(one, rows) for one in others]).mean(0)
            return margins.of_examples(model, rows) - expected

        ours, theirs = excess(forget), excess(self.test)
        place = np.searchsorted(np.sort(theirs.numpy()), ours.numpy()) / len(theirs)
        return float(place.mean()), float(ours.square().mean().sqrt())


def retain_gradient(bench: Bench, count: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return the retained rows' gradient from the cached sum, and by a full pass."""
    rows = bench.chosen(count)
    forget, retain = bench.rows.subset(rows), bench.without(rows)
    return (
        lambda: bench.anchor.gradient_sum - objective.summed_gradient(bench.model, forget),
        lambda: objective.summed_gradient(bench.model, retain),
    )


def _auc(scores: ModelScores, control: ModelScores) -> tuple[float, float, float]:
    """Return the loss attack's AUC against never-seen rows of the same classes, with 95 %."""
    found = verification.verify(
        scores,
        control,
        changed=True,
        lineage_clean=True,
        criteria=verification.Criteria(least_rows=10),
    )
    named = [m for m in found.metrics if m.name == "membership_auc"]
    if not named:  # no never-seen row has the class of a forgotten one
        return float("nan"), float("nan"), float("nan")
    estimate = named[0].unlearned
    return (estimate.value, *estimate.interval(0.95))
