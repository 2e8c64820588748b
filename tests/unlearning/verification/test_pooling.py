"""What a batch's own rows say against the pass of the pool that it is judged with."""

from __future__ import annotations

import numpy as np
import pytest

from unlearning.verification import pooling
from unlearning.verification.criteria import Criteria
from unlearning.verification.statistics.estimates import Estimate
from unlearning.verification.verdict import Excess, Question, Verdict

CRITERIA = Criteria()


def _question(unlearned: float, control: float, *, error: float, rows: int) -> Question:
    """A gate's question; the two models' errors are independent of each other."""
    none = np.zeros(0)
    return Question(
        "gate",
        Excess(
            Estimate(unlearned, np.array([error, 0.0]), none),
            Estimate(control, np.array([0.0, error]), none),
            limit=0.05,
            rows=rows,
            what="it",
            target="zero",
        ),
    )


@pytest.mark.parametrize(
    ("unlearned", "control", "error", "expected"),
    [
        # The batch's own control may well be on the target: there was nothing to show.
        (0.1, 0.2, 0.15, Verdict.PASSED),
        # It surely misses the target, and nothing is shown to be gone.
        (0.3, 0.45, 0.15, Verdict.NO_POWER),
        # Something is shown to be gone, but not that it is enough.
        (0.05, 0.5, 0.1, Verdict.PASSED),
    ],
)
def test_a_pass_stands_unless_something_was_there_and_is_not_shown_gone(
    unlearned: float, control: float, error: float, expected: Verdict
) -> None:
    pooled = _question(0.0, 0.4, error=0.01, rows=500)
    assert pooled.answer(CRITERIA).outcome is Verdict.PASSED
    alone = _question(unlearned, control, error=error, rows=50)
    assert alone.answer(CRITERIA).outcome is Verdict.NO_POWER
    [found] = pooling.settle([pooled], [alone], rows=50, criteria=CRITERIA)
    assert found.outcome is expected
