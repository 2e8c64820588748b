"""True positive rate: whether the attack names some forgotten rows with hardly a false alarm."""

from __future__ import annotations

from unlearning.verification import measures
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import Direction, Need, RemovalGate, excess_over
from unlearning.verification.measures import Metric
from unlearning.verification.verdict import Excess

LIMIT = Limit(
    "true_positive_rate",
    "Largest true positive rate of the membership attack at 1 % false positives.",
    default=0.025,
)
#: Below this many never-seen rows above its threshold, a true positive rate says nothing.
LEAST_ROWS_ABOVE_THRESHOLD = 5


def excess(metric: Metric, criteria: Criteria) -> Excess | str:
    """Return how far the rate lies above that of false positives."""
    at = float(metric.notes["false_positive_rate"])
    what = f"the true positive rate at {at:.1%} false positives"
    realised = min(
        metric.notes["realised_false_positive_rate"],
        metric.notes["control_realised_false_positive_rate"],
    )
    if realised * metric.never_seen_rows < LEAST_ROWS_ABOVE_THRESHOLD - 1e-9:
        few = f"fewer than {LEAST_ROWS_ABOVE_THRESHOLD} of {metric.never_seen_rows} never-seen rows"
        return f"{few} lie above the threshold of {what}"
    return excess_over(metric, at, limit=max(criteria.limit(LIMIT) - at, 0.0), what=what)


GATE = RemovalGate(
    name="true_positive_rate",
    question="Are more forgotten rows than never-seen ones found by an attack with few false"
    " alarms?",
    limits=(LIMIT,),
    metric=f"true_positive_rate_at_{measures.COMMON:g}",
    needs=frozenset({Need.RECORDS, Need.NEVER_SEEN_ROWS}),
    direction=Direction.AT_MOST,
    measure=lambda subject: measures.true_positive_rate(subject.comparison, at=measures.COMMON),
    excess=excess,
)
