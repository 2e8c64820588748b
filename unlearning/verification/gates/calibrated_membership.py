"""Calibrated membership: the same attack with each row's difficulty taken out by references."""

from __future__ import annotations

from unlearning.verification import calibrated
from unlearning.verification.criteria import Criteria
from unlearning.verification.gates import Direction, Need, RemovalGate, excess_over
from unlearning.verification.gates.membership import LIMIT
from unlearning.verification.measures import Metric
from unlearning.verification.verdict import Counts, Excess


def excess(metric: Metric, criteria: Criteria) -> Excess:
    """Return the distance of the AUC from .5.

    A model without the rows shows .5 whatever the rows are, because the references account for
    their difficulty; so the references' AUC is not subtracted as well.
    """
    what = "the calibrated membership AUC"
    return excess_over(metric, 0.5, limit=criteria.limit(LIMIT), what=what)


GATE = RemovalGate(
    name="calibrated_membership",
    question="Do forgotten rows fit the model better than they fit models trained without them?",
    limits=(LIMIT,),
    metric="calibrated_membership_auc",
    needs=frozenset({Need.RECORDS, Need.NEVER_SEEN_ROWS, Need.REFERENCES}),
    direction=Direction.WITHIN,
    measure=lambda subject: calibrated.membership_auc(subject.comparison),
    excess=excess,
    counts=Counts.MEMBERSHIP,
    precedence=2,
)
