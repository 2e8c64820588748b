"""Spread of the excess: some rows kept and others forgotten too much do not cancel."""

from __future__ import annotations

import numpy as np

from unlearning.verification.attacks.excess import Sample
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import BatchGate, Direction, Need, Subject
from unlearning.verification.measures import Metric
from unlearning.verification.statistics import local
from unlearning.verification.statistics.estimates import Estimate, contributions
from unlearning.verification.statistics.scores import Floats
from unlearning.verification.verdict import Counts, Finding, Verdict

METRIC = "excess_tail_share"
LIMIT = Limit(
    "excess_tails",
    "Largest distance from 20 % of the share of forgotten rows whose calibrated excess lies beyond"
    " the 10 % and 90 % quantiles of never-seen rows alike.",
    default=0.05,
)
#: The tails, each of this share, and the false alarms of either test.
_TAIL, _ALARMS = 0.1, 0.0025
#: Mean distance of a uniform rank from .5.
_UNIFORM_SPREAD = 0.25
#: Fewer rows have no tails.
_LEAST_ROWS = 10


def measure(subject: Subject) -> Metric | None:
    """Return the share of forgotten rows in both tails; None for few rows."""
    evidence, samples = subject.evidence, subject.excess
    if samples is None or evidence.outside is None:
        return None
    after, before = samples
    if len(after) < _LEAST_ROWS:
        return None
    ranks = after.excess_rank
    return Metric(
        name=METRIC,
        unlearned=_share(after),
        control=_share(before),
        rows=len(after),
        never_seen_rows=after.never_seen,
        notes={
            "lower": float(np.mean(ranks < _TAIL)),
            "upper": float(np.mean(ranks > 1 - _TAIL)),
            "tails_p": _p(after, _beyond),
            "spread": float(np.mean(_distance(ranks))),
            "spread_p": _p(after, _distance),
            "circular": evidence.outside.circular,
        },
    )


def judge(metric: Metric, criteria: Criteria) -> Finding:
    """Fail a share, or a spread, that is too large by the permutation test and by the limit.

    Rows that were aimed at their own margins are spread as they were aimed: neither is shown.
    """
    notes, limit = metric.notes, criteria.limit(LIMIT)
    found = (
        f"{notes['lower']:.1%} of the rows lie below the 10 % quantile of never-seen rows alike and"
        f" {notes['upper']:.1%} above the 90 % quantile (p = {notes['tails_p']:.4f}); the mean"
        f" distance of their ranks from the middle is {notes['spread']:.3f}, expected .25"
        f" (p = {notes['spread_p']:.4f})"
    )
    if notes["circular"]:
        return Verdict.NO_POWER, f"{found}; the margins set the targets of the update", False
    tails = metric.unlearned.value - 2 * _TAIL > limit and notes["tails_p"] <= _ALARMS
    wide = notes["spread"] / _UNIFORM_SPREAD - 1 > limit and notes["spread_p"] <= _ALARMS
    if tails or wide:
        both = "some rows are remembered, or forgotten too much, which cancels in the mean"
        return Verdict.FAILED, f"{found}: {both}", True
    return Verdict.PASSED, f"{found}: as never-seen rows", True


def _share(sample: Sample) -> Estimate:
    beyond = _beyond(sample.excess_rank)
    count = len(beyond)
    return Estimate(
        value=float(np.mean(beyond)),
        forget=contributions(beyond),
        never_seen=np.zeros(0),
        floor=float(np.sqrt(2 * _TAIL * (1 - 2 * _TAIL) * (1 / count + 1 / sample.never_seen))),
        bounds=(0.0, 1.0),
    )


def _beyond(ranks: Floats) -> Floats:
    return np.asarray((ranks < _TAIL) | (ranks > 1 - _TAIL), dtype=np.float64)


def _distance(ranks: Floats) -> Floats:
    return np.asarray(np.abs(ranks - 0.5))


def _p(sample: Sample, statistic: object) -> float:
    assert callable(statistic)
    count = sample.others_score.shape[1]
    among = statistic((np.arange(count) + 0.5) / count)
    candidates = np.broadcast_to(among, (len(sample), count))
    return local.upper_p(statistic(sample.excess_rank), candidates, never_seen=sample.never_seen)


GATE = BatchGate(
    name="excess_spread",
    question="Is the calibrated excess of forgotten rows spread as that of never-seen rows?",
    limits=(LIMIT,),
    metric=METRIC,
    needs=frozenset({Need.RECORDS, Need.MARGINS}),
    direction=Direction.AT_MOST,
    measure=measure,
    judge=judge,
    counts=Counts.CHECK,
)
