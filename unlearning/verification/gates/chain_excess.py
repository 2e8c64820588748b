"""Excess along the chain: small batches left as they were add up."""

from __future__ import annotations

import math

from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import BatchGate, Direction, Need, Subject
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.estimates import exactly
from unlearning.verification.verdict import Counts, Finding, Verdict

METRIC = "chain_evidence"
ALARMS = Limit(
    "chain_alarms",
    "Probability with which a chain of batches that were all forgotten is ever failed; 0: never.",
    default=0.01,
    high=0.1,
)


def measure(subject: Subject) -> Metric | None:
    """Return the evidence of the chain, as a power of ten; None where no margins are known."""
    chain = subject.chain
    if chain is None:
        return None
    evidence = subject.evidence.outside
    return Metric(
        name=METRIC,
        unlearned=exactly(chain.log_evidence / math.log(10)),
        rows=len(subject.evidence.unlearned.forget),
        notes={
            "batches": chain.batches,
            "circular": evidence is not None and evidence.circular,
        },
    )


def judge(metric: Metric, criteria: Criteria) -> Finding:
    """Fail a chain whose evidence has exceeded the inverse of its false alarms."""
    alarms = criteria.limit(ALARMS)
    most = -math.log10(alarms) if alarms > 0 else math.inf
    found = (
        f"over {metric.notes['batches']} batches the evidence that some were left as they were is"
        f" 10^{metric.unlearned.value:.1f}"
    )
    if metric.unlearned.value >= most:
        return Verdict.FAILED, f"{found}, at least 10^{most:.1f}: rows are still remembered", True
    return Verdict.PASSED, f"{found}, below 10^{most:.1f}", True


GATE = BatchGate(
    name="chain_excess",
    question="Do the batches since the anchor show together that some were left as they were?",
    limits=(ALARMS,),
    metric=METRIC,
    needs=frozenset({Need.RECORDS, Need.MARGINS}),
    direction=Direction.AT_MOST,
    measure=measure,
    judge=judge,
    counts=Counts.CHECK,
)
