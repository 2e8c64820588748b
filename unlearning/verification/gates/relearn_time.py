"""Relearn time: whether forgotten rows are relearned much faster than never-seen ones."""

from __future__ import annotations

import math

from unlearning.verification.attacks.relearn import RelearnTime
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import BatchGate, Direction, Need, Subject
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.estimates import Estimate, exactly
from unlearning.verification.verdict import Counts, Finding, Verdict

METRIC = "relearn_ratio"
LIMIT = Limit(
    "relearn_time",
    "Least ratio of the steps in which forgotten rows are relearned to those of never-seen rows.",
    # Unchanged models are at .02, retrained ones at .9 to 1.6. A ratio of a few steps is coarse:
    # updates that leave nothing else to see were at .20 on the digits.
    default=0.1,
    unit="ratio",
)
#: Fewer rows are relearned in a number of steps that says little.
_LEAST_ROWS = 30


def measure(subject: Subject) -> Metric | None:
    """Return the ratio of both times; None for few rows, or if forgotten ones were not relearned.

    If never-seen rows were not, it is the largest ratio that is possible: the better the forgotten
    rows are known, the more often.
    """
    found = subject.relearn
    assert found is not None
    ratio = found.largest_ratio if found.ratio is None else found.ratio
    if found.rows < _LEAST_ROWS or ratio is None:
        return None
    return Metric(
        name=METRIC,
        unlearned=exactly(ratio, bounds=(0.0, math.inf)),
        control=_of(found.control),
        rows=found.rows,
        never_seen_rows=found.rows,
        notes={"at_most": found.ratio is None},
    )


def _of(found: RelearnTime | None) -> Estimate | None:
    if found is None:
        return None
    ratio = found.largest_ratio if found.ratio is None else found.ratio
    return None if ratio is None else exactly(ratio, bounds=(0.0, math.inf))


def judge(metric: Metric, criteria: Criteria) -> Finding:
    """Fail a ratio below the limit."""
    limit, value = criteria.limit(LIMIT), metric.unlearned.value
    share = f"at most {value:.2f}" if metric.notes["at_most"] else f"{value:.2f}"
    found = f"forgotten rows are relearned in {share} of the steps of never-seen ones"
    if value < limit:
        return Verdict.FAILED, f"{found}, less than {limit:.2f}: they left traces", True
    return Verdict.PASSED, f"{found}, no less than {limit:.2f}", True


GATE = BatchGate(
    name="relearn_time",
    question="Does relearning forgotten rows take as long as learning never-seen ones?",
    limits=(LIMIT,),
    metric=METRIC,
    needs=frozenset({Need.RECORDS, Need.RELEARNING}),
    direction=Direction.AT_MOST,
    measure=measure,
    judge=judge,
    counts=Counts.CHECK,
)
