"""Audit rows against validation rows: whether the update learned the rows that judge it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from unlearning.verification.attacks import lira, membership
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.disclosure import Disclosure
from unlearning.verification.gates import BatchGate, Direction, Need, Subject, audited
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.estimates import Estimate, average, exactly
from unlearning.verification.statistics.scores import Floats, ModelScores, Scores
from unlearning.verification.verdict import Counts, Finding, Verdict

METRIC = "audit_gain_auc"
LIMIT = Limit(
    "audit_membership",
    "Largest distance above .5 of the probability that an audit row gained more than a validation"
    " row.",
    default=0.06,
    high=0.5,
)
#: Probability of failing an update that treats both alike.
_ALARMS = 0.0025
#: Fewer rows of either kind are not judged.
_LEAST_ROWS = 30


def measure(subject: Subject) -> Metric | None:
    """Return P(margin gained by an audit row > by a validation row), ties half.

    Every row is paired with itself under the control, so that its difficulty cancels. Rows of a
    forgotten class are left out.
    """
    evidence = subject.evidence
    gained = _gain(subject, evidence.unlearned)
    if gained is None:
        return None
    others = [_gain(subject, model) for model in evidence.references]
    references = [one[0] for one in others if one is not None]
    return Metric(
        name=METRIC,
        unlearned=gained[0],
        # A model has gained nothing over itself.
        control=exactly(0.5, bounds=(0.0, 1.0)),
        reference=average(references) if references and None not in others else None,
        rows=gained[1],
        never_seen_rows=gained[2],
        rows_of="audit",
    )


def _gain(subject: Subject, model: ModelScores) -> tuple[Estimate, int, int] | None:
    """Return the AUC of a model against the control, and the numbers of rows of both kinds."""
    old = subject.evidence.control
    if model.calibration is None or old.calibration is None:
        return None
    kept = np.ones(len(old.calibration), dtype=np.bool_)
    if subject.kind == "class":
        kept = ~np.isin(old.calibration.label, np.unique(old.forget.label))
    audit = _gained(audited(subject, model), audited(subject, old))
    validation = _gained(model.calibration.take(kept), old.calibration.take(kept))
    if min(len(audit), len(validation)) < _LEAST_ROWS:
        return None
    return membership.auc([(audit, validation)]), len(audit), len(validation)


def _gained(new: Scores, old: Scores) -> Floats:
    return lira.log_odds(new.loss) - lira.log_odds(old.loss)


def judge(metric: Metric, criteria: Criteria) -> Finding:
    """Fail if audit rows gained more, by the limit and by the test."""
    value = metric.unlearned.value - 0.5
    p = NormalDist().cdf(-value / metric.unlearned.standard_error)
    found = (
        f"an audit row gained more than a validation row with probability"
        f" {metric.unlearned.value:.3f} (p = {p:.4f})"
    )
    if p <= _ALARMS and value > criteria.limit(LIMIT):
        learned = "the update learned the rows that judge it, so they are not never-seen any more"
        return Verdict.FAILED, f"{found}: {learned}", True
    return Verdict.PASSED, f"{found}: both sets were treated alike", True


GATE = BatchGate(
    name="audit_membership",
    question="Were audit rows left as unknown to the model as validation rows?",
    limits=(LIMIT,),
    metric=METRIC,
    needs=frozenset({Need.VALIDATION_ROWS}),
    direction=Direction.AT_MOST,
    disclosure=Disclosure.FEW_ROWS,
    measure=measure,
    judge=judge,
    counts=Counts.CHECK,
)
