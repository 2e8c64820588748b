"""Shares given out while clients cancel: a cancelled request asks nothing of any model."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from service.ledger.database import db, locks
from service.ledger.database.states import RequestStatus, RunStatus
from service.ledger.database.tables import DeletionRequest, Erasure, Model, TrainingRun
from service.ledger.obligations import shares
from service.ledger.requests import lifecycle
from service.ledger.training import runs
from tests import factories
from tests.factories import NOW

pytestmark = pytest.mark.postgres


@pytest.fixture
def sessions(postgres_database: Engine) -> sessionmaker[Session]:
    """A request that no model has to do with yet, and a training that waits."""
    made = db.session_factory(postgres_database)
    with made.begin() as setup:
        data = factories.dataset(setup)
        factories.request(setup, data, rows=[0])
        factories.training_run(setup, factories.model(setup, data), status=RunStatus.QUEUED)
    return made


def test_a_cancel_waits_for_the_training_that_gives_the_request_a_share(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as worker:
        _start(worker)
        client = threading.Thread(target=_in_one, args=(sessions, _cancel))
        client.start()
        _until_waiting_or_ended(sessions, client)
    client.join()
    assert _left(sessions) == (RequestStatus.CANCELLED, 0)


def test_a_training_that_starts_waits_for_a_cancel_and_gives_no_share(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as client:
        _cancel(client)
        worker = threading.Thread(target=_in_one, args=(sessions, _start))
        worker.start()
        _until_waiting_or_ended(sessions, worker)
    worker.join()
    assert _left(sessions) == (RequestStatus.CANCELLED, 0)


def _start(session: Session) -> None:
    dataset_id = session.scalars(select(Model.dataset_id)).one()
    locked = locks.dataset(session, dataset_id, locks.Hold.PUBLICATION)
    run = session.scalars(select(TrainingRun)).one()
    runs.start(session, run, data_revision=locked.revision, actor="worker:w", now=NOW)


def _cancel(session: Session) -> None:
    lifecycle.cancel(session, session.scalars(select(DeletionRequest.id)).one(), actor="key:me")


def _in_one(sessions: sessionmaker[Session], act: Callable[[Session], None]) -> None:
    with sessions.begin() as session:
        act(session)


def _left(sessions: sessionmaker[Session]) -> tuple[str, int]:
    """State of the request, and how many models have still to forget for it."""
    with sessions() as session:
        status = session.scalars(select(DeletionRequest.status)).one()
        return status, len(session.scalars(select(Erasure.id).where(shares.is_open())).all())


def _until_waiting_or_ended(sessions: sessionmaker[Session], thread: threading.Thread) -> None:
    wanted = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(6000):
        with sessions() as looking:
            if looking.execute(wanted).scalar_one() or not thread.is_alive():
                return
        thread.join(0.01)
    raise AssertionError("it neither waits nor ends")
