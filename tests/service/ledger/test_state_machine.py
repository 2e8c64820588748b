"""The ledger, driven at random through everything that may happen to it, against a small model.

After every step the ledger must agree with the model of ``driven.py``, and after the last one a
healthy worker must bring every request to its end.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine

from tests.service.ledger.machine import Ledger

#: More examples, other ones each time: UNLEARN_TEST_EXAMPLES=500.
EXPLORING = "UNLEARN_TEST_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("UNLEARN_TEST_EXAMPLES", "8"))


def test_ledger_keeps_its_promises_whatever_happens(database: Engine) -> None:
    run_state_machine_as_test(
        lambda: Ledger(database),
        settings=settings(
            max_examples=EXAMPLES if database.dialect.name == "sqlite" else -(-EXAMPLES // 2),
            stateful_step_count=40,
            deadline=None,
            database=None,
            # Making a failure small takes minutes: asked for with the examples.
            phases=set(Phase) - (set() if EXPLORING else {Phase.shrink, Phase.explain}),
            derandomize=not EXPLORING,
            suppress_health_check=list(HealthCheck),
        ),
    )
