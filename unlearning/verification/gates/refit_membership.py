"""Refitted last layer: whether the hidden layers still know the forgotten rows."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from unlearning.verification.attacks import membership
from unlearning.verification.attacks.refit import Refit
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import BatchGate, Direction, Need, Subject
from unlearning.verification.measures import Metric
from unlearning.verification.statistics import local
from unlearning.verification.statistics.estimates import Estimate, contributions
from unlearning.verification.statistics.outside import Outside
from unlearning.verification.statistics.scores import Floats
from unlearning.verification.verdict import Counts, Finding, Verdict

METRIC = "refit_membership_auc"
LIMIT = Limit(
    "refit_membership",
    "Largest distance above .5 of the membership AUC after the last layer was refitted to retained"
    " rows.",
    default=0.05,
    high=0.5,
)
#: Probability of failing a model that never saw the rows.
_ALARMS = 0.0025
#: Fewer rows are not judged, and no fewer never-seen rows.
_LEAST_ROWS, _LEAST_NEVER_SEEN = 10, 50


def measure(subject: Subject) -> Metric | None:
    """Return the AUC after the refit; with each row's difficulty taken out where it is known."""
    refit, outside = subject.refit, subject.evidence.outside
    assert refit is not None
    if min(len(refit.forget) - _LEAST_ROWS, len(refit.audit) - _LEAST_NEVER_SEEN) < 0:
        return None
    known = None if outside is None else _calibrated(refit, outside)
    if known is not None:
        return known
    evidence = subject.evidence.unlearned
    ours, theirs = evidence.forget.label[refit.forget_at], evidence.audit.label[refit.audit_at]
    alike, theirs_alike = np.isin(ours, theirs), np.isin(theirs, ours)
    if alike.sum() < _LEAST_ROWS or theirs_alike.sum() < _LEAST_NEVER_SEEN:
        return None
    label, other = ours[alike], theirs[theirs_alike]
    share = {c: float(np.mean(label == c)) / float(np.sum(other == c)) for c in np.unique(label)}
    weights = np.array([share[c] for c in other])
    after, before = (
        membership.auc([(f[alike], u[theirs_alike])], weights, (label, other))
        for f, u in (
            (refit.forget, refit.audit),
            (refit.control_forget, refit.control_audit),
        )
    )
    p = _normal_p(after)
    return _metric(after, before, int(alike.sum()), int(theirs_alike.sum()), p, calibrated=False)


def _calibrated(refit: Refit, outside: Outside) -> Metric | None:
    """Return the rank among never-seen rows that models without either find as hard."""
    ours, theirs = outside.forget[refit.forget_at], outside.audit[refit.audit_at]
    known, others = np.isfinite(ours), np.isfinite(theirs)
    if known.sum() < _LEAST_ROWS or others.sum() < _LEAST_NEVER_SEEN:
        return None
    near = local.neighbours(ours[known], theirs[others])
    found = []
    for forget, audit in (
        (refit.forget, refit.audit),
        (refit.control_forget, refit.control_audit),
    ):
        # Within a neighbourhood what still depends on the margin is taken out, on never-seen rows.
        slope = _slope(theirs[others], audit[others])
        f, u = forget[known] - slope * ours[known], audit[others] - slope * theirs[others]
        p = local.upper_p(f, u[near.rows], never_seen=near.never_seen)
        found.append((_mean(local.ranks(f, u[near.rows]), near.never_seen), p))
    (after, p), (before, _) = found
    return _metric(after, before, int(known.sum()), near.never_seen, p, calibrated=True)


def _slope(x: Floats, y: Floats) -> float:
    """Return the slope of the least-squares line of ``y`` on ``x``."""
    spread = x - x.mean()
    size = float(spread @ spread)
    return float(spread @ y) / size if size > 0 else 0.0


def _mean(ranks: Floats, never_seen: int) -> Estimate:
    return Estimate(
        value=float(np.mean(ranks)),
        forget=contributions(ranks),
        never_seen=np.zeros(0),
        floor=float(np.sqrt((1 / len(ranks) + 1 / never_seen) / 12)),
        bounds=(0.0, 1.0),
    )


def _normal_p(auc: Estimate) -> float:
    return NormalDist().cdf(-(auc.value - 0.5) / auc.standard_error)


def _metric(
    after: Estimate, before: Estimate, rows: int, never_seen: int, p: float, *, calibrated: bool
) -> Metric:
    return Metric(
        name=METRIC,
        unlearned=after,
        control=before,
        rows=rows,
        never_seen_rows=never_seen,
        notes={"p": p, "calibrated": calibrated},
    )


def judge(metric: Metric, criteria: Criteria) -> Finding:
    """Fail an AUC above .5 by the limit and by the test."""
    assert metric.control is not None
    p = float(metric.notes["p"])
    found = (
        f"after a refit of the last layer to retained rows the membership AUC is"
        f" {metric.unlearned.value:.3f} (p = {p:.4f}), under the base version"
        f" {metric.control.value:.3f}"
    )
    if p <= _ALARMS and metric.unlearned.value - 0.5 > criteria.limit(LIMIT):
        return Verdict.FAILED, f"{found}: the hidden layers still know the rows", True
    return Verdict.PASSED, f"{found}: no more than of never-seen rows can be shown", True


GATE = BatchGate(
    name="refit_membership",
    question="Do the hidden layers know forgotten rows no better than never-seen ones?",
    limits=(LIMIT,),
    metric=METRIC,
    needs=frozenset({Need.RECORDS, Need.REFIT}),
    direction=Direction.AT_MOST,
    measure=measure,
    judge=judge,
    counts=Counts.CHECK,
)
