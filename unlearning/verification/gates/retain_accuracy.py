"""Accuracy on retained rows, against the base version."""

from __future__ import annotations

from unlearning.verification import measures
from unlearning.verification.criteria import Limit
from unlearning.verification.disclosure import Disclosure
from unlearning.verification.gates import Need, Subject, UtilityGate
from unlearning.verification.measures import Metric

METRIC = "retain_accuracy_drop"


def measure(subject: Subject) -> Metric | None:
    """Return the accuracy lost on retained rows; references count if all were scored on them."""
    evidence = subject.evidence
    before, after = evidence.control.retain, evidence.unlearned.retain
    assert before is not None
    assert after is not None
    scored = [model.retain for model in evidence.references if model.retain is not None]
    return measures.accuracy_drop(
        METRIC,
        before,
        after,
        control=before,
        references=scored if len(scored) == len(evidence.references) else (),
        rows_of="retain",
    )


GATE = UtilityGate(
    name="retain_accuracy",
    question="Is the version as accurate on retained rows as the one before?",
    limits=(
        Limit(
            "retain_accuracy_drop",
            "Largest loss of accuracy on retained rows against the base version.",
            default=0.02,
        ),
    ),
    metric=METRIC,
    needs=frozenset({Need.RETAINED_ROWS}),
    # Seldom another table has this pair of versions, to subtract it from; then it is withheld.
    disclosure=Disclosure.PUBLIC,
    measure=measure,
    compares="retain",
)
