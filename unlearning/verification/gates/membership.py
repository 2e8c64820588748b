"""Membership: whether the loss tells forgotten rows from never-seen ones of the same classes."""

from __future__ import annotations

from unlearning.verification import measures
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import Direction, Need, RemovalGate, excess_over_references
from unlearning.verification.measures import Metric
from unlearning.verification.verdict import Counts, Excess

LIMIT = Limit("membership_auc", "Largest distance of the membership AUC from .5.", default=0.03)
TO_REFERENCE = Limit(
    "membership_auc_to_reference",
    "Largest distance of the membership AUC from the references', where there are references.",
    default=0.015,
)


def excess(metric: Metric, criteria: Criteria) -> Excess:
    """Return the distance of the AUC from the references', or from .5 where there are none."""
    limit = LIMIT if metric.reference is None else TO_REFERENCE
    return excess_over_references(
        metric, 0.5, limit=criteria.limit(limit), what="the membership AUC"
    )


GATE = RemovalGate(
    name="membership",
    question="Does the loss tell forgotten rows from never-seen rows of the same classes?",
    limits=(LIMIT, TO_REFERENCE),
    metric="membership_auc",
    needs=frozenset({Need.RECORDS, Need.NEVER_SEEN_ROWS}),
    direction=Direction.WITHIN,
    measure=lambda subject: measures.membership_auc(subject.comparison),
    excess=excess,
    counts=Counts.MEMBERSHIP,
    precedence=1,
)
