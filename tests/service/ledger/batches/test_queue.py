"""What closes a batch, and which erasures may be in it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session

from service.ledger.batches import claims, execution, queue
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import Dataset, Model
from tests import factories
from tests.factories import NOW
from tests.service.ledger.batches.steps import LATER, RETRY, ask, claim, lease, status, unlearn


def test_waits_until_the_oldest_erasure_has_waited_long_enough(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model)
    held = lease(session, model, now=NOW)
    just_before = NOW + timedelta(seconds=9.9)
    assert queue.due_models(session, now=just_before) == []
    assert claims.claim(session, model, held=held, now=just_before) is None
    due = NOW + timedelta(seconds=10)
    assert queue.due_models(session, now=due) == [model.id]
    assert claims.claim(session, model, held=held, now=due) is not None


def test_models_are_served_in_the_order_in_which_they_have_waited(
    session: Session, data: Dataset
) -> None:
    policy = {"max_records": 10, "max_wait_seconds": 10}
    made = [factories.model(session, data, name=f"m{n}", policy=policy) for n in range(4)]
    for one in made:
        factories.version(session, one)
    waited = {0: 20, 1: 40, 2: 30, 3: 50}
    for n, seconds in waited.items():
        for since in (seconds, 12):  # a model has waited as long as its oldest request
            ask(session, data, made[n], rows=[n], at=NOW - timedelta(seconds=since))
    assert queue.due_models(session, now=NOW) == [made[n].id for n in (3, 1, 2, 0)]


def test_closes_at_once_when_full(session: Session, data: Dataset, model: Model) -> None:
    for row in range(9):
        ask(session, data, model, rows=[row])
    assert queue.due_models(session, now=NOW) == []
    ask(session, data, model, rows=[9])
    assert queue.due_models(session, now=NOW) == [model.id]


@pytest.mark.parametrize("ended", [RequestStatus.CANCELLED, RequestStatus.DENIED])
def test_erasure_of_an_ended_request_is_not_claimed(
    session: Session, data: Dataset, model: Model, ended: RequestStatus
) -> None:
    old = [ask(session, data, model, rows=[row], at=NOW) for row in range(10)]
    for request in old:
        request.status = ended
    session.flush()
    assert queue.due_models(session, now=LATER) == []
    fresh = ask(session, data, model, rows=[10], at=LATER)
    assert queue.due_models(session, now=LATER) == []  # neither old nor full by the others
    held, batch = claim(session, model)
    assert batch is None
    due = LATER + timedelta(seconds=10)
    assert queue.due_models(session, now=due) == [model.id]
    batch = claims.claim(session, model, held=held, now=due)
    assert execution.rows(session, batch) == [10]
    assert status(session, fresh)[1] == [ErasureStatus.CLAIMED]
    assert {status(session, request)[1][0] for request in old} == {ErasureStatus.PENDING}


def test_request_under_review_for_one_model_is_claimed_on_another(
    session: Session, data: Dataset, model: Model
) -> None:
    other = factories.model(session, data, name="other", policy={"max_wait_seconds": 10})
    factories.version(session, other)
    request = ask(session, data, model, other)
    held, batch = claim(session, model)
    execution.fail(
        session, batch, held=held, error="boom", retry=execution.Retry(1, 2.0), now=LATER
    )
    assert request.status == RequestStatus.NEEDS_REVIEW
    assert queue.due_models(session, now=LATER) == [other.id]
    _, batch = claim(session, other)
    assert execution.rows(session, batch) == [0]


def test_erasures_that_rest_after_a_failure_do_not_fill_a_batch(
    session: Session, data: Dataset, model: Model
) -> None:
    for row in range(10):
        ask(session, data, model, rows=[row])
    held, batch = claim(session, model)
    execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=LATER)
    ask(session, data, model, rows=[10], at=LATER)
    assert queue.due_models(session, now=LATER) == []
    assert claims.claim(session, model, held=held, now=LATER) is None


def test_run_now_closes_at_once_and_once(session: Session, data: Dataset, model: Model) -> None:
    ask(session, data, model)
    model.run_now_at = NOW
    model.run_now_method = {"method": "retrain", "options": {}}
    held, batch = claim(session, model, now=NOW)
    assert batch is not None
    assert batch.method == {"method": "retrain", "options": {}}
    assert model.run_now_at is None
    assert model.run_now_method is None
    unlearn(session, model, held, batch, now=NOW)
    ask(session, data, model, rows=[1])
    assert queue.due_models(session, now=NOW) == []
