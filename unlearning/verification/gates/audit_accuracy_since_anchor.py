"""Accuracy on never-seen rows, against the anchor: small losses of many batches add up."""

from __future__ import annotations

import numpy as np

from unlearning.verification import measures
from unlearning.verification.criteria import Limit
from unlearning.verification.gates import Need, Subject, UtilityGate, audited
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.scores import Integers, Scores

METRIC = "audit_accuracy_drop_since_anchor"


def measure(subject: Subject) -> Metric | None:
    """Return the accuracy lost since the anchor on the rows that both were scored on."""
    assert subject.anchor_audit is not None
    evidence = subject.evidence
    new = audited(subject, evidence.unlearned)
    rows = np.intersect1d(subject.anchor_audit.rows, new.rows)
    return measures.accuracy_drop(
        METRIC,
        _at(subject.anchor_audit, rows),
        _at(new, rows),
        control=_at(audited(subject, evidence.control), rows),
        references=[_at(audited(subject, model), rows) for model in evidence.references],
        rows_of="audit",
    )


def _at(scores: Scores, rows: Integers) -> Scores:
    """Return the scores of ``rows`` (n,), in this order."""
    return scores.take(np.intersect1d(scores.rows, rows, return_indices=True)[1])


GATE = UtilityGate(
    name="audit_accuracy_since_anchor",
    question="Is the version as accurate on never-seen rows as its anchor?",
    limits=(
        Limit(
            "audit_accuracy_drop_since_anchor",
            "Largest loss of accuracy on never-seen rows against the anchor, over all batches"
            " since.",
            default=0.03,
        ),
    ),
    metric=METRIC,
    needs=frozenset({Need.ANCHOR}),
    measure=measure,
)
