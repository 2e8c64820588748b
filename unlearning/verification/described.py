"""Metrics that no gate judges: they are reported and decide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unlearning.verification import calibrated, measures
from unlearning.verification.gates import Subject, audited
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.matching import Evidence
from unlearning.verification.statistics.scores import ModelScores


def metrics(subject: Subject) -> list[Metric]:
    """Return the metrics of a batch that no gate judges."""
    evidence = subject.evidence
    found = [
        measures.retain_membership(evidence),
        measures.prediction_divergence(evidence, "forget"),
        measures.prediction_divergence(_judging_utility(subject), "audit"),
        *(_attacks(subject) if subject.comparison.forget_rows else ()),
    ]
    return [metric for metric in found if metric is not None]


def _judging_utility(subject: Subject) -> Evidence:
    """Return the evidence with the audit rows that judge utility alone."""

    def kept(model: ModelScores) -> ModelScores:
        return replace(model, audit=audited(subject, model))

    evidence = subject.evidence
    return replace(
        evidence,
        unlearned=kept(evidence.unlearned),
        control=kept(evidence.control),
        references=tuple(map(kept, evidence.references)),
    )


def _attacks(subject: Subject) -> Sequence[Metric]:
    """Return the results of attacks that are not judged.

    Rows of a forgotten class need not look like rows never seen, so membership is not judged for
    them either.
    """
    comparison = subject.comparison
    shared = [
        measures.true_positive_rate(comparison, at=measures.COMMON),
        measures.true_positive_rate(comparison, at=measures.RARE),
        measures.version_difference_auc(comparison),
    ]
    if subject.kind == "class":
        return [
            *shared,
            measures.membership_auc(comparison),
        ]
    known = comparison.with_references()
    return shared if known is None else [*shared, calibrated.rmia_auc(known)]
