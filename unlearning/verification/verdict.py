"""Outcomes of gates from measured values, and the verdict from the outcomes.

A removal gate compares a model's *excess*, its distance from what a model that never saw the rows
would show. It decides only if it can tell: either the updated model's interval lies outside the
limits, or the control surely misses the target. A model that is shown to keep a limit which its
control breaks has passed. If the rows are too few to show that, the paired difference to the
control decides: more than a share of the control's excess must be shown to be removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from unlearning.verification.criteria import Criteria
from unlearning.verification.disclosure import Disclosure
from unlearning.verification.statistics.estimates import Estimate, Interval

Concern = Literal["integrity", "utility", "removal"]
Kind = Literal["records", "class"]


class Verdict(StrEnum):
    """The result of a verification."""

    #: No gate failed and at least one gate about removal could tell and passed.
    PASSED = "passed"
    #: At least one gate failed.
    FAILED = "failed"
    #: Nothing failed, but no gate about removal could have told the difference.
    NO_POWER = "no_power"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one gate, with its reason in words."""

    gate: str
    concern: Concern
    outcome: Verdict
    reason: str
    #: Who may read the reason and the metric that it quotes; declared by the gate.
    disclosure: Disclosure = Disclosure.FEW_ROWS
    metric: str | None = None


def overall(outcomes: Sequence[Outcome]) -> Verdict:
    """Return failed if any gate failed, no power if no removal gate passed, else passed."""
    if any(o.outcome is Verdict.FAILED for o in outcomes):
        return Verdict.FAILED
    removal = [o for o in outcomes if o.concern == "removal"]
    if any(o.outcome is Verdict.PASSED for o in removal):
        return Verdict.PASSED
    return Verdict.NO_POWER


def fact(gate: str, holds: bool, *, otherwise: str, reason: str) -> Outcome:
    """Judge a fact, which is known and not estimated."""
    outcome = Verdict.PASSED if holds else Verdict.FAILED
    return Outcome(gate, "integrity", outcome, reason if holds else otherwise)


def utility(gate: str, drop: Estimate, *, limit: float, criteria: Criteria) -> Outcome:
    """Judge whether accuracy lost on the same rows, a share, is at most ``limit``."""
    low, high = drop.interval(criteria.confidence)
    found = f"accuracy changed by {_points(-drop.value)} [{_points(-high)}, {_points(-low)}]"
    allowed = f"the allowed {_points(-limit)}"
    if low > limit:
        return Outcome(gate, "utility", Verdict.FAILED, f"{found}: worse than {allowed}")
    if high <= limit:
        return Outcome(gate, "utility", Verdict.PASSED, f"{found}: no worse than {allowed}")
    reason = f"{found}: too few rows to tell whether that is worse than {allowed}"
    return Outcome(gate, "utility", Verdict.NO_POWER, reason)


@dataclass(frozen=True)
class Excess:
    """How far the updated model and its control are from the target, on ``rows`` forget rows."""

    unlearned: Estimate
    control: Estimate
    limit: float
    rows: int
    #: The quantity in words, such as "the membership AUC".
    what: str
    #: The target in words.
    target: str
    #: False if falling short of the target is no fault.
    two_sided: bool = True
    #: Trained on the retained rows alone: an excess is then a property of the rows.
    exact: bool = False

    def gone(self, criteria: Criteria) -> Interval:
        """Return the interval of the control's additional excess, by the paired difference."""
        return self.control.minus(self.unlearned).interval(criteria.confidence)


@dataclass(frozen=True)
class Question:
    """The question of a removal gate; without an ``excess`` it has no power, and says why."""

    gate: str
    excess: Excess | None
    why_not: str = ""

    def answer(self, criteria: Criteria) -> Outcome:
        """Return the gate's outcome."""
        if self.excess is None:
            return Outcome(self.gate, "removal", Verdict.NO_POWER, self.why_not)
        return removal(self.gate, self.excess, criteria=criteria)


def removal(gate: str, excess: Excess, *, criteria: Criteria) -> Outcome:
    """Judge whether the excess is removed, is not, or cannot be told."""
    outcome, reason = _judge(excess, criteria)
    if excess.exact and outcome is Verdict.FAILED:
        outcome = Verdict.NO_POWER
        reason += (
            "; but the version was trained without these rows, so this is not memory of them: they"
            " are unlike the never-seen rows, or rows much like them were retained"
        )
    return Outcome(gate, "removal", outcome, reason)


def _judge(excess: Excess, criteria: Criteria) -> tuple[Verdict, str]:
    low, high = excess.unlearned.interval(criteria.confidence)
    what, limit = excess.what, excess.limit
    found = (
        f"{what} is {excess.unlearned.value:+.3f} [{low:+.3f}, {high:+.3f}] from {excess.target}"
    )
    if excess.rows < criteria.least_rows:
        few = f"{excess.rows} forgotten rows are fewer than {criteria.least_rows}"
        return Verdict.NO_POWER, f"{few}; pool them with other batches or wait for more"
    least, most = excess.unlearned.interval(criteria.miss_confidence)
    c_low, c_high = excess.control.interval(criteria.miss_confidence)
    if least > limit:
        return Verdict.FAILED, f"{found}: above the limit of {limit:.3f}"
    if excess.two_sided and most < -limit:
        if c_high < 0:
            harder = "the rows are harder than never-seen ones even for the base version"
            return Verdict.NO_POWER, f"{found}, but {harder}; a reference model could tell"
        return Verdict.FAILED, f"{found}: forgotten too much, which gives the rows away as well"
    if c_low <= 0 or c_high <= limit:
        same = f"the base version, which still holds the rows, shows {excess.control.value:+.3f}"
        told = f"[{c_low:+.3f}, {c_high:+.3f}]: the metric cannot tell it from the target"
        return Verdict.NO_POWER, f"{found}; {same} {told}"
    inside = high <= limit and (low >= -limit or not excess.two_sided)
    return _against_control(excess, criteria, found=found, inside=inside)


def _against_control(
    excess: Excess, criteria: Criteria, *, found: str, inside: bool
) -> tuple[Verdict, str]:
    """Judge by the paired differences when the control surely misses the target.

    For an unchanged model the remainder is the control's own excess times a constant, so it fails
    if its control can be told from the target, and it cannot lie within a limit that its control
    breaks.
    """
    gone_low, gone_high = excess.gone(criteria)
    left = excess.unlearned.minus(excess.control, share=1 - criteria.removed)
    left_low, left_high = left.interval(criteria.confidence)
    was = f"the base version showed {excess.control.value:+.3f}"
    removed = f"[{gone_low:+.3f}, {gone_high:+.3f}] of it is gone"
    story = f"{found}; {was}, {removed}"
    kept = Verdict.PASSED, f"{story}, within the limit of {excess.limit:.3f}"
    if inside and gone_low > 0 and excess.control.value > excess.limit:
        return kept
    if left_low > 0:
        return Verdict.FAILED, f"{story}: the rows are still remembered"
    if inside and gone_low > 0:
        return kept
    if left_high < 0 and _may_be_on_target(excess, criteria):
        return Verdict.PASSED, f"{story}: no excess can be shown any more"
    return Verdict.NO_POWER, f"{story}: too few rows to tell whether enough of it is gone"


def _may_be_on_target(excess: Excess, criteria: Criteria) -> bool:
    """Return whether the value keeps the limit, or its interval contains the target."""
    low, high = excess.unlearned.interval(criteria.confidence)
    value = excess.unlearned.value
    if excess.two_sided:
        return low <= 0 <= high or abs(value) <= excess.limit
    return low <= 0 or value <= excess.limit


def _points(share: float) -> str:
    return f"{100 * share + 0.0:+.2f} points"
