"""Whether a verification of few forgotten rows may end before it has read every other row.

A single forgotten row gains nothing from the five thousandth never-seen one, and reading them is
most of the time between a request and its version. So the sets are read in growing portions of a
fixed order, and reading ends at the first look at which no gate's outcome can reasonably change. A
look only ends on the clear side: whatever fails, or comes close, is judged on all rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unlearning.verification import gates
from unlearning.verification.criteria import Criteria
from unlearning.verification.gates import UtilityGate
from unlearning.verification.memorised import Memorised
from unlearning.verification.report import Verification
from unlearning.verification.statistics.scores import ModelScores
from unlearning.verification.verdict import Verdict

#: Shares of every set that are read at the looks.
PORTIONS = (0.2, 0.5, 1.0)
#: Never-seen rows of each forgotten class with which an early look may end, and those with margins:
#: the power of a test of few rows grows with them.
LEAST_NEVER_SEEN, LEAST_WITH_MARGINS = 50, 1000


def portions(forget_rows: int, criteria: Criteria, *, kind: str) -> tuple[float, ...]:
    """Return the shares of the sets to read, one after the other.

    Batches of ``criteria.least_rows`` and more are judged on removal by themselves, and whole
    classes by their own rows: both are read at once.
    """
    few = kind == "records" and forget_rows < criteria.least_rows
    return PORTIONS if few else PORTIONS[-1:]


def settled(found: Verification, unlearned: ModelScores, memory: Memorised | None = None) -> bool:
    """Return whether the rows read so far decide every gate, and what is left of ``memory``.

    No gate failed and no drift budget is exceeded; accuracy that was lost is shown to be within
    its limit, at a confidence that accounts for all looks together (Bonferroni); and each forgotten
    class, and a test by margins, has enough never-seen rows to compare the forgotten ones with.
    More of these could not change whether the rows were memorised.
    """
    if memory is not None and memory.near:
        return False
    if any(one.outcome is Verdict.FAILED for one in found.outcomes) or found.retrain_because:
        return False
    label = unlearned.audit.label
    classes = np.unique(unlearned.forget.label)
    if any(np.sum(label == one) < LEAST_NEVER_SEEN for one in classes):
        return False
    criteria = found.criteria
    each = replace(criteria, confidence=1 - (1 - criteria.confidence) / len(PORTIONS))
    judged = {gate.name: gate for gate in gates.installed() if isinstance(gate, UtilityGate)}
    compared = [m for m in found.metrics if m.name == "calibrated_excess_auc"]
    if any(metric.never_seen_rows < LEAST_WITH_MARGINS for metric in compared):
        return False
    for one in found.outcomes:
        gate = judged.get(one.gate)
        if gate is None:
            continue
        metric = found.metric(gate.metric or "")
        if gate.outcome(metric, each).outcome is not Verdict.PASSED:
            return False
    return True
