"""What becomes of the erasures of a batch that failed or was handed back."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from service.ledger.batches import claims, execution, leases, queue
from service.ledger.database.states import (
    ErasureStatus,
    RequestStatus,
)
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
)
from service.ledger.requests import lifecycle
from tests import factories
from tests.service.ledger.batches.steps import LATER, RETRY, ask, claim, status, unlearn


def test_failed_batch_pauses_and_doubles_the_pause(
    session: Session, data: Dataset, model: Model
) -> None:
    request = ask(session, data, model)
    now = LATER
    for attempt, pause in ((1, 2), (2, 4)):
        held, batch = claim(session, model, now=now)
        execution.fail(session, batch, held=held, error="disk full", retry=RETRY, now=now)
        leases.release(session, held, now=now)
        share = session.query(Erasure).filter_by(request_id=request.id).one()
        assert (share.attempts, share.error) == (attempt, "disk full")
        assert share.not_before == now + timedelta(seconds=pause)
        assert queue.due_models(session, now=now) == []
        now += timedelta(seconds=pause)
    held, batch = claim(session, model, now=now)
    execution.fail(session, batch, held=held, error="disk full", retry=RETRY, now=now)
    state, shares = status(session, request)
    assert state == RequestStatus.NEEDS_REVIEW
    assert shares == [ErasureStatus.NEEDS_REVIEW]
    reason = session.get_one(DeletionRequest, request.id).status_reason
    assert reason is not None
    assert reason.startswith("disk full; ")
    for way_out in (
        f"/v1/deletion-requests/{request.id}:retry",
        f"/v1/models/{model.name}:withdraw",
    ):
        assert way_out in reason


def test_pause_has_an_upper_limit() -> None:
    assert execution.Retry(100, 2.0).pause(90) == timedelta(minutes=10)


def test_pause_ends_when_the_clock_is_set_back_by_more_than_the_longest(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model)
    ahead = LATER + timedelta(hours=5)
    held, batch = claim(session, model, now=ahead)
    execution.fail(session, batch, held=held, error="disk full", retry=RETRY, now=ahead)
    leases.release(session, held, now=ahead)
    assert queue.due_models(session, now=ahead) == []
    assert queue.due_models(session, now=ahead - timedelta(minutes=9)) == []
    assert queue.due_models(session, now=LATER) == [model.id]
    assert claim(session, model, now=LATER)[1] is not None


def test_worker_that_dies_again_and_again_is_a_failure_too(
    session: Session, data: Dataset, model: Model
) -> None:
    """Take-overs count as attempts, so a batch that kills its worker ends as well."""
    ask(session, data, model)
    now = LATER
    for died in range(1, 5):
        _, batch = claim(session, model, owner=f"w{died}", now=now)
        assert batch.attempts == died
        now += timedelta(seconds=31)


def test_poisonous_request_ends_alone_and_the_others_complete(
    session: Session, data: Dataset, model: Model
) -> None:
    asked = [ask(session, data, model, rows=[row]) for row in range(7)]
    poison = 4
    now = LATER
    ran = 0
    while queue.due_models(session, now=now):
        ran += 1
        held, batch = claim(session, model, now=now)
        if poison in execution.rows(session, batch):
            execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=now)
        else:
            unlearn(session, model, held, batch, now=now)
        leases.release(session, held, now=now)
        now += timedelta(seconds=20)
    states = [status(session, one)[0] for one in asked]
    assert states[poison] == RequestStatus.NEEDS_REVIEW
    assert status(session, asked[poison])[1] == [ErasureStatus.NEEDS_REVIEW]
    del states[poison]
    others = [status(session, one)[1] for n, one in enumerate(asked) if n != poison]
    assert others == [[ErasureStatus.COMPLETED]] * 6
    assert ran <= 3 * 4 + 3  # three tries per halving, and each clean half once


def test_retried_request_stays_apart_and_gets_fresh_attempts(
    session: Session, data: Dataset, model: Model
) -> None:
    bad = ask(session, data, model, rows=[0])
    now = LATER
    for _ in range(3):
        held, batch = claim(session, model, now=now)
        execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=now)
        leases.release(session, held, now=now)
        now += timedelta(seconds=20)
    session.expire_all()
    lifecycle.retry(session, bad.id, actor="key:k")
    ask(session, data, model, rows=[1], at=now)
    now += timedelta(seconds=20)
    held, batch = claim(session, model, now=now)
    assert execution.rows(session, batch) == [0]
    unlearn(session, model, held, batch, now=now)
    assert status(session, bad)[1] == [ErasureStatus.COMPLETED]


def test_handing_back_a_batch_counts_no_attempt(
    session: Session, data: Dataset, model: Model
) -> None:
    request = ask(session, data, model)
    held, batch = claim(session, model)
    execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=LATER)
    later = LATER + timedelta(seconds=5)
    batch = claims.claim(session, model, held=held, now=later)
    execution.hand_back(session, batch, held=held, because="stopping", now=later)
    share = session.query(Erasure).filter_by(request_id=request.id).one()
    assert (share.status, share.attempts, share.not_before) == (ErasureStatus.PENDING, 1, None)
    again = claims.claim(session, model, held=held, now=later)
    assert again is not None
    assert again.id != batch.id


def test_request_under_review_keeps_state_when_another_model_claims(
    session: Session, data: Dataset
) -> None:
    """Otherwise nobody could ever retry it."""
    models = [factories.model(session, data) for _ in range(2)]
    for one in models:
        factories.version(session, one)
    request = ask(session, data, *models)
    now = LATER
    for _ in range(3):
        held, batch = claim(session, models[0], now=now)
        execution.fail(session, batch, held=held, error="boom", retry=RETRY, now=now)
        leases.release(session, held, now=now)
        now += timedelta(seconds=20)
    held, batch = claim(session, models[1], now=now)
    unlearn(session, models[1], held, batch, now=now)
    assert status(session, request)[0] == RequestStatus.NEEDS_REVIEW
    lifecycle.retry(session, request.id, actor="key:k")
    held, batch = claim(session, models[0], now=now)
    unlearn(session, models[0], held, batch, now=now)
    assert status(session, request)[1] == [ErasureStatus.COMPLETED] * 2
