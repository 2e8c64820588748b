"""Correct a pool's outcomes by what the current batch's own rows show.

Rows forgotten well dilute rows not forgotten at all, so a pool can pass although nothing was done
for the batch under test. Its own rows are therefore judged as well, if there are enough: whether
they fail alone, and whether they show that the excess was not removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from unlearning.verification.criteria import Criteria
from unlearning.verification.verdict import Excess, Outcome, Question, Verdict


def settle(
    pooled: Sequence[Question], alone: Sequence[Question], *, rows: int, criteria: Criteria
) -> list[Outcome]:
    """Return the pool's outcome of each gate, corrected by what the batch's own ``rows`` rows show.

    What fails alone fails. A pass of the pool stands unless the batch's own rows contradict it. If
    they are fewer than ``criteria.least_rows``, or not of the pool that a gate judged, a pass is
    the pool's and not theirs: no power.
    """
    own = {question.gate: question for question in alone}
    outcomes = [question.answer(criteria) for question in pooled]
    if rows < criteria.least_rows:
        few = f"this batch's own rows, {rows}, are too few to share it"
        return [_of_the_pool(outcome, few) for outcome in outcomes]
    still = _gates_that_stood_still(pooled, own, criteria)
    return [
        _with_own(outcome, own.get(outcome.gate), rows, still, criteria) for outcome in outcomes
    ]


def _of_the_pool(outcome: Outcome, why: str) -> Outcome:
    if outcome.outcome is not Verdict.PASSED:
        return outcome
    reason = f"{outcome.reason}; but that is the pool's pass: {why}"
    return replace(outcome, outcome=Verdict.NO_POWER, tells=False, reason=reason)


def _with_own(
    outcome: Outcome, question: Question | None, rows: int, still: Sequence[str], criteria: Criteria
) -> Outcome:
    if question is None:
        # Of a pool's batches only those that have what the gate needs are judged by it.
        missing = "this batch's own rows lack what the gate needs, and are not part of it"
        return _of_the_pool(outcome, missing)
    own = question.answer(criteria)
    if own.outcome is Verdict.FAILED:
        return replace(own, reason=f"this batch's {rows} rows alone: {own.reason}")
    if outcome.outcome is not Verdict.PASSED:
        return outcome
    excess = question.excess
    if still or (excess is not None and _nothing_shown_gone(excess, criteria)):
        named = ", ".join(still) or outcome.gate
        moved = f"this batch's {rows} rows alone do not show that anything was removed ({named})"
        return replace(
            outcome,
            outcome=Verdict.NO_POWER,
            reason=f"{outcome.reason}; but that is the earlier batches' doing: {moved}",
        )
    return outcome


def _gates_that_stood_still(
    pooled: Sequence[Question], own: Mapping[str, Question], criteria: Criteria
) -> list[str]:
    """Return the gates on which this batch alone improves less than the pool requires.

    The control's excess is taken from the pool; by the paired difference on its own rows the batch
    shows that less than ``criteria.removed`` of it was removed. For a model that equals its control
    that difference is exactly zero, however few the rows. One such gate decides for all: a coarser
    metric that cannot tell must not pass because of other batches.
    """
    found = []
    for question in pooled:
        excess, alone = question.excess, own.get(question.gate)
        if excess is None or alone is None or alone.excess is None:
            continue
        expected = criteria.removed * excess.control.value
        if expected > 0 and alone.excess.gone(criteria)[1] < expected:
            found.append(question.gate)
    return found


def _nothing_shown_gone(excess: Excess, criteria: Criteria) -> bool:
    """Return whether the batch's control surely misses the target and no change is shown."""
    there = excess.control.interval(criteria.miss_confidence)[0] > 0
    return there and excess.gone(criteria)[0] <= 0
