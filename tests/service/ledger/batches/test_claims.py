"""Which erasures a claim takes, and what it costs."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.batches import claims, execution
from service.ledger.database import db, locks
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Erasure, Model
from service.ledger.requests import lifecycle
from tests import factories
from tests.service.ledger.batches.steps import LATER, ask, claim, lease, status, unlearn


def test_takes_no_more_records_than_allowed_but_never_splits_a_request(
    session: Session, data: Dataset, model: Model
) -> None:
    first = ask(session, data, model, rows=range(6))
    second = ask(session, data, model, rows=range(6, 12))
    held, batch = claim(session, model)
    assert execution.rows(session, batch) == list(range(6))
    assert status(session, second)[1] == [ErasureStatus.PENDING]
    unlearn(session, model, held, batch)
    batch = claims.claim(session, model, held=held, now=LATER)
    assert execution.rows(session, batch) == list(range(6, 12))
    assert status(session, first)[1] == [ErasureStatus.COMPLETED]


def test_one_request_larger_than_a_batch_is_a_batch_of_its_own(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=range(15))
    _, batch = claim(session, model)
    assert len(execution.rows(session, batch)) == 15


def test_classes_and_records_are_never_in_one_batch(
    session: Session, data: Dataset, model: Model
) -> None:
    ask(session, data, model, rows=[0])
    whole = factories.request(session, data, rows=[], kind="class", label=1)
    factories.erasure(session, whole, model)
    held, batch = claim(session, model)
    assert (batch.kind, execution.rows(session, batch)) == ("records", [0])
    unlearn(session, model, held, batch)
    batch = claims.claim(session, model, held=held, now=LATER)
    assert (batch.kind, execution.rows(session, batch)) == ("class", [1, 4, 7, 10, 13, 16, 19])


# Cancelled at the moment of the claim.


@pytest.mark.parametrize("attempt", range(4))
def test_request_is_cancelled_or_claimed_and_never_both(database: Engine, attempt: int) -> None:
    sessions = db.session_factory(database)
    with sessions() as session, session.begin():
        data = factories.dataset(session, rows=12)
        model = factories.model(session, data)
        factories.version(session, model)
        asked = [ask(session, data, model, rows=[row]).id for row in range(10)]
        held = lease(session, model)
        model_id = model.id
    start = threading.Barrier(2)
    cancelled: list[str] = []
    refused: list[str] = []

    def cancel() -> None:
        start.wait()
        for request_id in asked if attempt % 2 else reversed(asked):
            try:
                with sessions() as mine, mine.begin():
                    lifecycle.cancel(mine, request_id, actor="key:k")
                cancelled.append(request_id)
            except Conflict:
                refused.append(request_id)

    thread = threading.Thread(target=cancel)
    thread.start()
    start.wait()
    with sessions() as session, session.begin():
        claims.claim(session, session.get_one(Model, model_id), held=held, now=LATER)
    thread.join()
    with sessions() as session:
        found = dict(session.execute(select(Erasure.request_id, Erasure.status)).all())
        states = dict(session.execute(select(DeletionRequest.id, DeletionRequest.status)).all())
    assert sorted([*cancelled, *refused]) == sorted(asked)
    for request_id in cancelled:
        assert states[request_id] == RequestStatus.CANCELLED
        assert found[request_id] == ErasureStatus.CANCELLED
    for request_id in refused:
        assert states[request_id] == RequestStatus.PROCESSING
        assert found[request_id] == ErasureStatus.CLAIMED


# What a claim costs.


@pytest.mark.postgres
def test_claim_changes_its_rows_in_place(postgres_database: Engine) -> None:
    """No index is written for them, so their new versions are heap-only."""
    with db.session_factory(postgres_database)() as session:
        data = factories.dataset(session, rows=60)
        model = factories.model(session, data, policy={"max_wait_seconds": 0})
        factories.version(session, model)
        for row in range(50):
            ask(session, data, model, rows=[row])
        session.commit()
        _, batch = claim(session, model)
        assert len(execution.erasures_of(session, batch)) == 50
        written = {
            name: tuple(counts)
            for name, *counts in session.execute(
                text(
                    "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_all_tables"
                    " WHERE relname IN ('erasures', 'deletion_requests')"
                )
            )
        }
    assert written == {"erasures": (50, 50), "deletion_requests": (50, 50)}


@pytest.mark.postgres
def test_requests_that_others_have_locked_are_left_to_the_next_batch(
    postgres_database: Engine,
) -> None:
    sessions = db.session_factory(postgres_database)
    with sessions.begin() as session:
        data = factories.dataset(session, rows=12)
        model = factories.model(session, data, policy={"max_wait_seconds": 0, "max_records": 4})
        factories.version(session, model)
        asked = [ask(session, data, model, rows=[row]).id for row in range(8)]
        held = lease(session, model)
        model_id = model.id
    with sessions.begin() as other, sessions.begin() as session:
        locks.requests(other, [*asked[:4], asked[5]])  # all of the oldest four
        model = session.get_one(Model, model_id)
        batch = claims.claim(session, model, held=held, now=LATER)
        assert batch is not None
        assert execution.rows(session, batch) == [4, 6, 7]
