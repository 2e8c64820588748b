"""A transaction that a deadlock ended is repeated, and its caller hears nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from service.api import problems
from service.ledger.database import db, transactions
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest
from service.ledger.requests import lifecycle
from tests import factories
from tests.service.api import callers

pytestmark = pytest.mark.postgres


def _awaiting(engine: Engine) -> str:
    with db.session_factory(engine).begin() as session:
        data = factories.dataset(session, name="faces")
        return factories.request(session, data, status=RequestStatus.AWAITING_APPROVAL).id


def _in_a_deadlock(engine: Engine, act: Callable[[], object]) -> None:
    """Run something that locks the dataset and then a request, against one who does the reverse.

    Who looks for a deadlock first is its victim: here that is never this side.
    """
    acting = threading.Thread(target=act)
    with db.session_factory(engine).begin() as other:
        other.execute(text("SET LOCAL deadlock_timeout = '10min'"))
        other.execute(select(DeletionRequest).with_for_update())
        acting.start()
        _until_waiting(engine)
        other.execute(select(Dataset).with_for_update())
    acting.join()


def _until_waiting(engine: Engine) -> None:
    wanted = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(6000):
        with engine.connect() as looking:
            if looking.execute(wanted).scalar_one():
                return
        threading.Event().wait(0.005)
    raise AssertionError("nobody waits for a lock")


def _deadlocks(engine: Engine) -> int:
    with engine.connect() as connection:
        wanted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(connection.execute(text(wanted)).scalar_one())


@pytest.fixture
def patient(postgres_database: Engine) -> Engine:
    """Connections that look for a deadlock only when the other side has closed the circle."""
    with postgres_database.connect() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '4s'"))
        connection.commit()
    postgres_database.dispose()
    return postgres_database


def test_endpoint_is_repeated_after_a_deadlock(patient: Engine, tmp_path: Path) -> None:
    waiting = _awaiting(patient)
    before = _deadlocks(patient)
    answers = []
    with callers.application(callers.settings_on(patient, tmp_path)) as app:
        client = callers.client(app)
        url = f"/v1/deletion-requests/{waiting}:approve"
        _in_a_deadlock(patient, lambda: answers.append(client.post(url)))
    [answer] = answers
    assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
    assert _deadlocks(patient) == before + 1


def test_transaction_of_a_worker_is_repeated_after_a_deadlock(patient: Engine) -> None:
    waiting = _awaiting(patient)
    before = _deadlocks(patient)

    @transactions.repeated
    def approve() -> None:
        with db.session_factory(patient).begin() as session:
            lifecycle.approve(session, waiting, actor="worker:w", now=factories.NOW)

    _in_a_deadlock(patient, approve)
    with Session(patient) as session:
        assert session.get_one(DeletionRequest, waiting).status == RequestStatus.ACCEPTED
    assert _deadlocks(patient) == before + 1


def test_a_deadlock_that_is_not_repeated_is_told_as_others_who_write(patient: Engine) -> None:
    waiting = _awaiting(patient)
    told = []

    def approve() -> None:
        try:
            with db.session_factory(patient).begin() as session:
                lifecycle.approve(session, waiting, actor="worker:w", now=factories.NOW)
        except DBAPIError as error:
            told.append(problems.of(error))

    _in_a_deadlock(patient, approve)
    # The database does answer: whoever looks for the cause need not look there.
    assert [(problem.status, problem.code) for problem in told] == [(503, "busy")]
