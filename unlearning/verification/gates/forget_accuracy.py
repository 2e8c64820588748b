"""Forget accuracy: whether forgotten rows are recognised more often than never-seen ones."""

from __future__ import annotations

from unlearning.verification import measures
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import Direction, Need, RemovalGate, excess_over_references
from unlearning.verification.measures import Metric
from unlearning.verification.verdict import Excess

LIMIT = Limit(
    "forget_accuracy",
    "Largest distance of forget accuracy from that on never-seen rows of the same classes.",
    default=0.03,
)
NEVER_SEEN = "that of never-seen rows of the same classes"


def excess(metric: Metric, criteria: Criteria) -> Excess:
    """Return the distance of the gap from the references', or from 0 where there are none."""
    alone = metric.reference is None
    return excess_over_references(
        metric,
        0.0,
        limit=criteria.limit(LIMIT),
        what="forget accuracy" if alone else f"forget accuracy less {NEVER_SEEN}",
        words=NEVER_SEEN,
    )


GATE = RemovalGate(
    name="forget_accuracy",
    question="Are forgotten rows recognised as often as never-seen rows of the same classes?",
    limits=(LIMIT,),
    metric="forget_accuracy_gap",
    needs=frozenset({Need.RECORDS, Need.NEVER_SEEN_ROWS}),
    direction=Direction.WITHIN,
    measure=lambda subject: measures.forget_accuracy_gap(subject.comparison),
    excess=excess,
)
