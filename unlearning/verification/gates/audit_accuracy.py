"""Accuracy on never-seen rows, against the base version."""

from __future__ import annotations

from unlearning.verification import measures
from unlearning.verification.criteria import Limit
from unlearning.verification.disclosure import Disclosure
from unlearning.verification.gates import Subject, UtilityGate, audited
from unlearning.verification.measures import Metric

METRIC = "audit_accuracy_drop"


def measure(subject: Subject) -> Metric | None:
    """Return the accuracy lost on never-seen rows; None if there are none."""
    evidence = subject.evidence
    before = audited(subject, evidence.control)
    return measures.accuracy_drop(
        METRIC,
        before,
        audited(subject, evidence.unlearned),
        control=before,
        references=[audited(subject, model) for model in evidence.references],
        rows_of="audit",
    )


GATE = UtilityGate(
    name="audit_accuracy",
    question="Is the version as accurate on never-seen rows as the one before?",
    limits=(
        Limit(
            "audit_accuracy_drop",
            "Largest loss of accuracy on never-seen rows against the base version.",
            default=0.01,
        ),
    ),
    metric=METRIC,
    # Seldom another table has this pair of versions, to subtract it from; then it is withheld.
    disclosure=Disclosure.PUBLIC,
    measure=measure,
    compares="audit",
)
