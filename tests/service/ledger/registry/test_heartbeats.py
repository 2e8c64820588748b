"""Which workers live, as they say themselves."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.ledger.database.tables import Worker
from service.ledger.registry import heartbeats
from tests.factories import NOW


def _beat(session: Session, name: str) -> None:
    heartbeats.beat(
        session,
        name,
        started_at=NOW,
        busy_since={"deletions": NOW, "background": None},
        code_version="1",
    )


def _age(session: Session, name: str, by: timedelta) -> None:
    worker = session.get_one(Worker, name)
    session.execute(update(Worker).where(Worker.name == name).values(seen_at=worker.seen_at - by))
    session.expire_all()


def _names(session: Session) -> list[str]:
    return [worker.name for worker in heartbeats.living(session, beat_seconds=5)]


def test_a_worker_lives_for_four_beats_after_the_last(session: Session) -> None:
    _beat(session, "a")
    _beat(session, "b")
    assert _names(session) == ["a", "b"]
    _age(session, "a", timedelta(seconds=20))
    assert _names(session) == ["b"]
    _beat(session, "a")
    assert _names(session) == ["a", "b"]


def test_a_worker_seen_before_the_clock_was_set_back_lives_once_it_is_seen_again(
    session: Session,
) -> None:
    _beat(session, "a")
    _beat(session, "dead")
    for name in ("a", "dead"):
        _age(session, name, -timedelta(hours=5))
    assert _names(session) == []
    _beat(session, "a")
    assert _names(session) == ["a"]


def test_a_worker_has_one_row_that_says_what_it_does(session: Session) -> None:
    _beat(session, "a")
    _beat(session, "a")
    worker = session.scalars(select(Worker)).one()
    assert worker.started_at == NOW
    assert worker.busy_since == {"deletions": "2026-03-01T12:00:00.000000Z", "background": None}


def test_rows_of_workers_that_are_gone_are_removed_after_an_hour(session: Session) -> None:
    for name in ("a", "b"):
        _beat(session, name)
    _age(session, "a", timedelta(minutes=61))
    _age(session, "b", timedelta(minutes=59))
    _beat(session, "c")
    assert set(session.scalars(select(Worker.name))) == {"b", "c"}


def test_a_worker_that_ends_in_order_is_gone_at_once(session: Session) -> None:
    _beat(session, "a")
    _beat(session, "b")
    heartbeats.leave(session, "a")
    assert _names(session) == ["b"]
