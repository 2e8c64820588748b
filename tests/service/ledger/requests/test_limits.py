"""What a request waits for: room in the queue, its due date, an approval where it is large."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, sessionmaker

from service.errors import Conflict
from service.ledger.database import db
from service.ledger.database.states import (
    BatchStatus,
    RequestStatus,
)
from service.ledger.database.tables import (
    AuditHead,
    DeletionRequest,
    Erasure,
)
from service.ledger.requests import intake, lifecycle, lookup, outlook, page
from tests import factories
from tests.factories import NOW
from tests.service.ledger.requests.asking import (
    actions_of,
    awaiting_approval,
    of_records,
    published_model,
    recorded,
)


def test_a_full_queue_refuses_only_what_it_has_no_room_for(session: Session) -> None:
    data = factories.dataset(session)
    submissions = [page.Submission(of_records(data, f"r{row}"), "key_test") for row in range(3)]
    outcomes = intake.record_many(
        session, submissions, digester=factories.DIGESTER, now=NOW, room=2
    )
    assert [isinstance(outcome, page.QueueFull) for outcome in outcomes] == [False, False, True]
    assert lookup.count_open(session, up_to=10) == 2
    assert lookup.count_open(session, up_to=1) == 1


@pytest.mark.parametrize(
    ("asked", "due"),
    [
        (datetime(2026, 1, 31, 8, tzinfo=UTC), datetime(2026, 2, 28, 8, tzinfo=UTC)),
        (datetime(2024, 1, 30, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC)),
        (datetime(2026, 12, 15, tzinfo=UTC), datetime(2027, 1, 15, tzinfo=UTC)),
        (datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 30, tzinfo=UTC)),
    ],
)
def test_due_one_calendar_month_later(asked: datetime, due: datetime) -> None:
    assert outlook.due(asked) == due


def test_expected_by_adds_the_wait_and_two_batches_as_long_as_the_latest(
    session: Session,
) -> None:
    data = factories.dataset(session)
    model = published_model(session, data, policy={"max_wait_seconds": 30})
    base = session.get_one(factories.Version, model.production_id)
    for seconds in (2, 4, 90):
        factories.batch(
            session,
            model,
            base,
            status=BatchStatus.COMPLETED,
            finished_at=NOW + timedelta(seconds=seconds),
        )
    [request] = recorded(session, of_records(data, "r0"))
    assert request.expected_by == NOW + timedelta(seconds=30 + 2 * 4)


def test_expected_by_foresees_the_training_that_follows_a_class(session: Session) -> None:
    data = factories.dataset(session)
    model = published_model(session, data, policy={"max_wait_seconds": 30})
    ended = NOW + timedelta(seconds=500)
    factories.training_run(session, model, started_at=NOW, finished_at=ended)
    base = session.get_one(factories.Version, model.production_id)
    factories.unlearned(session, model, base, [factories.request(session, data, kind="class")])
    [request] = recorded(session, of_records(data, "r1"))
    assert request.expected_by == NOW + timedelta(seconds=30 + 2 * 500)


@pytest.mark.parametrize(
    ("approval", "waits"),
    [
        ({"max_records_per_request": 2}, [False, True, False]),
        ({"max_share_per_request": 0.2}, [False, True, False]),
        ({"max_records_per_day": 3}, [False, True, False]),
        ({"max_share_per_day": 0.25}, [False, True, False]),
        ({"max_records_per_day": 2}, [False, True, True]),
    ],
)
def test_large_requests_wait_for_approval(
    session: Session, approval: dict[str, Any], waits: list[bool]
) -> None:
    data = factories.dataset(session, rows=12)
    published_model(session, data, policy={"approval": approval})
    made = recorded(
        session,
        of_records(data, "r0", "r1"),
        of_records(data, "r2", "r3", "r4"),
        of_records(data, "r5"),
    )
    assert [one.status == RequestStatus.AWAITING_APPROVAL for one in made] == waits
    held_back = {one.id for one in made if one.status == RequestStatus.AWAITING_APPROVAL}
    shared = set(session.scalars(select(Erasure.request_id)))
    assert shared == {one.id for one in made} - held_back


def test_the_day_counts_what_earlier_calls_asked_for(session: Session) -> None:
    data = factories.dataset(session)
    published_model(session, data, policy={"approval": {"max_records_per_day": 3}})
    factories.request(session, data, rows=[0, 1], created_at=NOW - timedelta(hours=24))
    factories.request(session, data, rows=[2, 3, 4], created_at=NOW - timedelta(hours=25))
    [fits, does_not] = recorded(session, of_records(data, "r5"), of_records(data, "r6"))
    assert fits.status == RequestStatus.ACCEPTED
    assert does_not.status == RequestStatus.AWAITING_APPROVAL


def test_the_day_does_not_count_what_was_cancelled(session: Session) -> None:
    data = factories.dataset(session)
    published_model(session, data, policy={"approval": {"max_records_per_day": 2}})
    for _ in range(3):
        [one] = recorded(session, of_records(data, "r0", "r1"))
        assert one.status == RequestStatus.ACCEPTED
        lifecycle.cancel(session, one.id, actor="key:me")
    [kept] = recorded(session, of_records(data, "r2", "r3"))
    [beyond] = recorded(session, of_records(data, "r4"))
    assert kept.status == RequestStatus.ACCEPTED
    assert beyond.status == RequestStatus.AWAITING_APPROVAL


@pytest.mark.postgres
def test_two_processes_at_once_let_through_what_the_day_allows(postgres_database: Engine) -> None:
    """Both have counted before either commits: each stands still at the lock that comes last."""
    sessions = db.session_factory(postgres_database)
    with sessions() as setup:
        data = factories.dataset(setup, rows=40)
        published_model(setup, data, policy={"approval": {"max_records_per_day": 10}})
        setup.commit()

    def ask(first: int) -> None:
        with sessions.begin() as mine:
            recorded(mine, *(of_records(data, f"r{row}") for row in range(first, first + 20)))

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 20)]
    with sessions.begin() as stall:
        stall.execute(select(AuditHead).with_for_update())
        for thread in threads:
            thread.start()
        _until_waiting(sessions, 2)
    for thread in threads:
        thread.join()
    with sessions() as session:
        accepted = select(DeletionRequest.id).filter_by(status=RequestStatus.ACCEPTED)
        assert len(session.scalars(accepted).all()) == 10
        assert len(session.scalars(select(DeletionRequest.id)).all()) == 40


def _until_waiting(sessions: sessionmaker[Session], count: int) -> None:
    """Wait until so many sessions wait for a lock."""
    wanted = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(6000):
        with sessions() as looking:
            if looking.execute(text(wanted)).scalar_one() >= count:
                return
        threading.Event().wait(0.01)
    raise AssertionError("nobody waits for a lock")


def test_an_approved_request_gets_its_erasures(session: Session) -> None:
    request = awaiting_approval(session)
    assert session.scalars(select(Erasure)).all() == []
    lifecycle.approve(session, request.id, actor="key:boss", now=NOW)
    assert request.status == RequestStatus.ACCEPTED
    assert session.scalars(select(Erasure.request_id)).all() == [request.id]
    with pytest.raises(Conflict):
        lifecycle.approve(session, request.id, actor="key:boss", now=NOW)
    assert actions_of(session, request) == [
        "deletion_request:awaiting_approval",
        "deletion_request:approved",
    ]


def test_a_denied_request_ends(session: Session) -> None:
    request = awaiting_approval(session)
    lifecycle.deny(session, request.id, because="suspicious", actor="key:boss")
    assert (request.status, request.status_reason) == (RequestStatus.DENIED, "suspicious")
    for attempt in (
        lambda: lifecycle.approve(session, request.id, actor="key:boss", now=NOW),
        lambda: lifecycle.cancel(session, request.id, actor="key:me"),
    ):
        with pytest.raises(Conflict):
            attempt()
