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

    #: No gate failed, and the gates about removal that decide (``overall``) passed.
    PASSED = "passed"
    #: At least one gate failed.
    FAILED = "failed"
    #: Nothing failed, but the rows do not show that they were removed.
    NO_POWER = "no_power"


class Counts(StrEnum):
    """What a pass of a gate about removal counts for."""

    #: It decides: no version passes without it if it can tell.
    MEMBERSHIP = "membership"
    #: Where no membership gate can tell, all of these that can must pass.
    SUPPORT = "support"
    #: Nothing: it excludes one way of not forgetting, and can only fail.
    CHECK = "check"


#: The outcome, its reason, and whether the metric tells the control from the target.
Finding = tuple[Verdict, str, bool]


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
    #: About removal: whether the gate tells the control from the target on these rows. One that
    #: does and yet has no power has too few rows to show that enough is gone.
    tells: bool = False
    counts: Counts = Counts.SUPPORT
    #: Of the membership gates that can tell, those with the largest precedence decide.
    precedence: int = 0


def overall(outcomes: Sequence[Outcome]) -> Verdict:
    """Return failed if any gate failed; passed if the gates that decide passed; else no power.

    The membership gate of the largest precedence that can tell decides, or gates, if there are
    several. If none can tell, every supporting gate that can must have passed.
    """
    if any(o.outcome is Verdict.FAILED for o in outcomes):
        return Verdict.FAILED
    tell = [o for o in outcomes if o.concern == "removal" and o.tells]
    decide = [o for o in tell if o.counts is Counts.MEMBERSHIP]
    if decide:
        first = max(o.precedence for o in decide)
        decide = [o for o in decide if o.precedence == first]
    else:
        decide = [o for o in tell if o.counts is Counts.SUPPORT]
    if decide and all(o.outcome is Verdict.PASSED for o in decide):
        return Verdict.PASSED
    return Verdict.NO_POWER


def fact(
    gate: str, holds: bool, *, otherwise: str, reason: str, concern: Concern = "integrity"
) -> Outcome:
    """Judge a fact, which is known and not estimated."""
    outcome = Verdict.PASSED if holds else Verdict.FAILED
    said = reason if holds else otherwise
    return Outcome(gate, concern, outcome, said, tells=concern == "removal")


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
    return about_removal(gate, _judge(excess, criteria), exact=excess.exact)


def about_removal(gate: str, finding: Finding, *, exact: bool) -> Outcome:
    """Return the outcome of a gate about removal; lineage excuses the failure of an exact one."""
    outcome, reason, tells = finding
    if exact and outcome is Verdict.FAILED:
        outcome, tells = Verdict.NO_POWER, False
        reason += (
            "; but the version was trained without these rows, so this is not memory of them: they"
            " are unlike the never-seen rows, or rows much like them were retained"
        )
    return Outcome(gate, "removal", outcome, reason, tells=tells)


def _judge(excess: Excess, criteria: Criteria) -> Finding:
    low, high = excess.unlearned.interval(criteria.confidence)
    what, limit = excess.what, excess.limit
    found = (
        f"{what} is {excess.unlearned.value:+.3f} [{low:+.3f}, {high:+.3f}] from {excess.target}"
    )
    if excess.rows < criteria.least_rows:
        few = f"{excess.rows} forgotten rows are fewer than {criteria.least_rows}"
        return Verdict.NO_POWER, f"{few}; pool them with other batches or wait for more", False
    least, most = excess.unlearned.interval(criteria.miss_confidence)
    c_low, c_high = excess.control.interval(criteria.miss_confidence)
    if least > limit:
        return Verdict.FAILED, f"{found}: above the limit of {limit:.3f}", True
    if excess.two_sided and most < -limit:
        if c_high < 0:
            harder = "the rows are harder than never-seen ones even for the base version"
            return Verdict.NO_POWER, f"{found}, but {harder}; a reference model could tell", False
        too_much = "forgotten too much, which gives the rows away as well"
        return Verdict.FAILED, f"{found}: {too_much}", True
    if c_low <= 0 or c_high <= limit:
        same = f"the base version, which still holds the rows, shows {excess.control.value:+.3f}"
        told = f"[{c_low:+.3f}, {c_high:+.3f}]: the metric cannot tell it from the target"
        return Verdict.NO_POWER, f"{found}; {same} {told}", False
    inside = high <= limit and (low >= -limit or not excess.two_sided)
    return _against_control(excess, criteria, found=found, inside=inside)


def _against_control(excess: Excess, criteria: Criteria, *, found: str, inside: bool) -> Finding:
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
    shown = f"{found}; {was}, {removed}"
    kept = Verdict.PASSED, f"{shown}, within the limit of {excess.limit:.3f}", True
    if inside and gone_low > 0 and excess.control.value > excess.limit:
        return kept
    if left_low > 0:
        return Verdict.FAILED, f"{shown}: the rows are still remembered", True
    if inside and gone_low > 0:
        return kept
    if left_high < 0 and _may_be_on_target(excess, criteria):
        return Verdict.PASSED, f"{shown}: no excess can be shown any more", True
    few = "too few rows to tell whether enough of it is gone"
    return Verdict.NO_POWER, f"{shown}: {few}", True


def _may_be_on_target(excess: Excess, criteria: Criteria) -> bool:
    """Return whether the value keeps the limit, or its interval contains the target."""
    low, high = excess.unlearned.interval(criteria.confidence)
    value = excess.unlearned.value
    if excess.two_sided:
        return low <= 0 <= high or abs(value) <= excess.limit
    return low <= 0 or value <= excess.limit


def _points(share: float) -> str:
    return f"{100 * share + 0.0:+.2f} points"
