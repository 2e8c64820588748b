"""From scores to the numbers of the table, for every method, the base and the references."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unlearning.verification import ModelScores, Scores, measures
from unlearning.verification.statistics import divergence, matching
from unlearning.verification.statistics.matching import Comparison, Evidence

FALSE_POSITIVES = 0.01
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Numbers:
    """One model; accuracies are shares, divergences in bits."""

    #: Never-seen rows; of the other classes where a class is forgotten.
    test: float
    retain: float
    forget: float
    #: |forget − mean of the references|.
    forget_distance: float
    #: Loss-threshold attack, forget rows against never-seen rows of the same classes.
    auc: float
    auc_low: float
    auc_high: float
    #: |AUC − mean of the references|.
    auc_distance: float
    #: True positive rate of the same attack at 1 % false positives, and what was realised.
    tpr: float
    realised_fpr: float
    #: Mean Jensen-Shannon divergence to the references, on forget and on never-seen rows.
    divergence_forget: float
    divergence_test: float


@dataclass(frozen=True)
class Baseline:
    """What the references show, and how far they are from each other."""

    scores: tuple[ModelScores, ...]
    control: ModelScores
    forget: float
    auc: float
    #: Each reference measured against the others.
    each: tuple[Numbers, ...]
    #: Smallest and largest divergence between two references, on forget and never-seen rows.
    band_forget: tuple[float, float]
    band_test: tuple[float, float]

    @property
    def mean(self) -> Numbers:
        """The references' mean, distances being those of each from the others."""
        columns = zip(*(vars(n).values() for n in self.each), strict=True)
        return Numbers(*(statistics.fmean(column) for column in columns))


def baseline(references: Sequence[ModelScores], control: ModelScores) -> Baseline:
    """The references (two or more), as every other model is measured."""
    each = []
    for k, scores in enumerate(references):
        others = [other for i, other in enumerate(references) if i != k]
        each.append(_numbers(scores, control, others))
    pairs = list(itertools.combinations(references, 2))
    forget = [_divergence(a.forget, b.forget) for a, b in pairs]
    test = [_divergence(a.audit, b.audit) for a, b in pairs]
    return Baseline(
        scores=tuple(references),
        control=control,
        forget=statistics.fmean(_accuracy(scores.forget) for scores in references),
        auc=statistics.fmean(n.auc for n in each),
        each=tuple(each),
        band_forget=(min(forget), max(forget)),
        band_test=(min(test), max(test)),
    )


def measure(scores: ModelScores, against: Baseline) -> Numbers:
    """One model against the references."""
    return _numbers(scores, against.control, against.scores)


def comparison(scores: ModelScores, control: ModelScores) -> Comparison:
    """Forget rows beside never-seen rows, weighted to the same classes."""
    return matching.match([Evidence(scores, control)])


def _numbers(
    scores: ModelScores, control: ModelScores, references: Sequence[ModelScores]
) -> Numbers:
    matched = comparison(scores, control)
    auc = measures.membership_auc(matched).unlearned
    rate = measures.true_positive_rate(matched, at=FALSE_POSITIVES)
    forget = _accuracy(scores.forget)
    low, high = auc.interval(CONFIDENCE)
    expected = statistics.fmean(_accuracy(other.forget) for other in references)
    expected_auc = statistics.fmean(
        measures.membership_auc(comparison(other, control)).unlearned.value for other in references
    )
    assert scores.retain is not None
    return Numbers(
        test=_accuracy(_kept(scores)),
        retain=_accuracy(scores.retain),
        forget=forget,
        forget_distance=abs(forget - expected),
        auc=auc.value,
        auc_low=low,
        auc_high=high,
        auc_distance=abs(auc.value - expected_auc),
        tpr=rate.unlearned.value,
        realised_fpr=rate.notes["realised_false_positive_rate"],
        divergence_forget=statistics.fmean(
            _divergence(scores.forget, r.forget) for r in references
        ),
        divergence_test=statistics.fmean(_divergence(scores.audit, r.audit) for r in references),
    )


def _kept(scores: ModelScores) -> Scores:
    """Never-seen rows of the classes that are still in the retained rows."""
    assert scores.retain is not None
    return scores.audit.take(np.isin(scores.audit.label, scores.retain.label))


def _accuracy(scores: Scores) -> float:
    return float(scores.correct.mean())


def _divergence(first: Scores, second: Scores) -> float:
    assert first.probabilities is not None
    assert second.probabilities is not None
    return float(divergence.jensen_shannon(first.probabilities, second.probabilities).mean())
