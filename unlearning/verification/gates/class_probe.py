"""Linear probe of a forgotten class: whether hidden layers still tell it from the others."""

from __future__ import annotations

import numpy as np

from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import BatchGate, Direction, Need, Subject
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.estimates import Estimate
from unlearning.verification.verdict import Counts, Finding, Verdict

METRIC = "class_probe_accuracy"
LIMIT = Limit(
    "class_probe",
    "Largest balanced accuracy of a linear probe of the hidden layers for a forgotten class, above"
    " that of the references where there are some; 1: reported and not judged.",
    default=1.0,
)


def measure(subject: Subject) -> Metric | None:
    """Return the probe's accuracy for the update, the control and the references."""
    found = subject.probe
    assert found is not None
    references = found.references
    return Metric(
        name=METRIC,
        unlearned=_share(found.unlearned, found.rows),
        control=_share(found.control, found.rows),
        reference=_share(float(np.mean(references)), found.rows) if references else None,
        rows=found.rows,
    )


def _share(value: float, rows: int) -> Estimate:
    """Return a balanced accuracy on so many rows of both kinds, with a binomial error."""
    error = np.sqrt(max(value * (1 - value), 1 / (rows + 2)) / (2 * rows))
    none = np.zeros(0)
    return Estimate(value, none, none, floor=float(error), bounds=(0.0, 1.0))


def judge(metric: Metric, criteria: Criteria) -> Finding:
    """Fail an accuracy above the limit, unless the policy leaves it to be reported only."""
    limit, value = criteria.limit(LIMIT), metric.unlearned.value
    assert metric.control is not None
    found = (
        f"a linear probe of the hidden layers tells the class with a balanced accuracy of"
        f" {value:.3f}, under the base version {metric.control.value:.3f}"
    )
    above = value - (0.0 if metric.reference is None else metric.reference.value)
    if limit < 1 and above > limit:
        return Verdict.FAILED, f"{found}: above the limit of {limit:.3f}", True
    return Verdict.PASSED, f"{found}; the limit is {limit:.3f}", True


GATE = BatchGate(
    name="class_probe",
    question="Do the hidden layers no longer tell the forgotten class from the others?",
    limits=(LIMIT,),
    metric=METRIC,
    needs=frozenset({Need.CLASS, Need.PROBE}),
    direction=Direction.AT_MOST,
    measure=measure,
    judge=judge,
    counts=Counts.CHECK,
)
