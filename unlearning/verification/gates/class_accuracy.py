"""Class accuracy: whether the training rows of a forgotten class are still recognised."""

from __future__ import annotations

from unlearning.verification import measures
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import (
    Direction,
    Need,
    RemovalGate,
    Subject,
    excess_over_references,
)
from unlearning.verification.measures import Metric
from unlearning.verification.verdict import Counts, Excess

LIMIT = Limit("class_accuracy", "Largest accuracy on a forgotten class.", default=0.03)


def excess(metric: Metric, criteria: Criteria) -> Excess:
    """Return how far the accuracy lies above the references', or above 0."""
    return excess_over_references(
        metric,
        0.0,
        limit=criteria.limit(LIMIT),
        what="accuracy on the forgotten class",
        words="zero",
    )


def measure(subject: Subject) -> Metric | None:
    """Return the accuracy on the class's training rows."""
    return measures.class_accuracy(subject.evidence, "class_accuracy", lambda model: model.forget)


GATE = RemovalGate(
    name="class_accuracy",
    question="Are training rows of the forgotten class still recognised?",
    limits=(LIMIT,),
    metric="class_accuracy",
    needs=frozenset({Need.CLASS}),
    direction=Direction.AT_MOST,
    measure=measure,
    excess=excess,
    counts=Counts.MEMBERSHIP,
    precedence=1,
)
