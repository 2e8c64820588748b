"""Failures of a method: which of them the policy's next method answers, and which recur."""

from __future__ import annotations

from service.ledger.registry.policy import MethodChoice
from service.messages.failures import FailureKind
from workers.compute.process import ComputeFailed

#: Errors of a method that mean it does not apply: the policy's next method is tried, without a
#: retry. Damaged internal state is among them: a retrain needs none.
METHOD_REFUSALS = frozenset(
    {
        FailureKind.NEEDS_RETRAIN,
        FailureKind.UNUSABLE_DIRECTION,
        FailureKind.WRONG_OPTIONS,
        FailureKind.UNKNOWN_NAME,
        FailureKind.DIVERGED,
        FailureKind.BAD_TRAINING,
        FailureKind.CORRUPT_CHECKPOINT,
        FailureKind.NOT_STORED,
    }
)

#: Refusals that do not depend on weights or random numbers: every attempt ends the same way.
LASTING_REFUSALS = frozenset(
    {FailureKind.NEEDS_RETRAIN, FailureKind.WRONG_OPTIONS, FailureKind.UNKNOWN_NAME}
)

#: Errors that no other method, attempt or choice of requests changes: no row would be retained.
HOPELESS = frozenset({FailureKind.NOTHING_RETAINED})

_LONGEST_REFUSAL = 500


def reason(failed: ComputeFailed, choice: MethodChoice) -> str:
    """Return why a method was refused; an unexpected error begins with its class name."""
    kind = "" if failed.kind in METHOD_REFUSALS else f"{failed.name}: "
    return f"{choice.method}: {kind}{failed.detail}"[:_LONGEST_REFUSAL]
