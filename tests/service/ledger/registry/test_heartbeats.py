"""Which workers live, as they say themselves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.ledger.database.tables import Worker
from service.ledger.registry import heartbeats
from tests.factories import NOW


def _beat(session: Session, name: str, **counted: Any) -> bool:
    return heartbeats.beat(
        session,
        name,
        started_at=NOW,
        busy_since={"deletions": NOW, "background": None},
        code_version="1",
        **counted,
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


def test_counts_of_all_workers_are_added_name_by_name(session: Session) -> None:
    _beat(session, "a", counts={"calls": 2, "seconds": 0.5})
    _beat(session, "b", counts={"calls": 3})
    _beat(session, "old")
    assert heartbeats.counted(session) == {"calls": 5, "seconds": 0.5}
    _beat(session, "a", counts={"calls": 4, "seconds": 0.75})
    assert heartbeats.counted(session) == {"calls": 7, "seconds": 0.75}


def test_sums_do_not_fall_when_a_worker_ends_or_dies(session: Session) -> None:
    for name in ("ends", "dies", "stays"):
        _beat(session, name, counts={"calls": 2})
    heartbeats.leave(session, "ends", counts={"calls": 3}, told={"calls": 2})
    assert heartbeats.counted(session) == {"calls": 7}
    _age(session, "dies", timedelta(minutes=61))
    assert heartbeats.counted(session) == {"calls": 7}
    _beat(session, "stays", counts={"calls": 2})
    assert set(session.scalars(select(Worker.name))) == {"stays"}
    assert heartbeats.counted(session) == {"calls": 7}
    _beat(session, "new", counts={"calls": 1})
    assert heartbeats.counted(session) == {"calls": 8}


def test_a_worker_whose_row_was_removed_is_counted_once(session: Session) -> None:
    assert _beat(session, "away", counts={"calls": 2})
    assert not _beat(session, "away", counts={"calls": 3}, told={"calls": 2})
    _age(session, "away", timedelta(minutes=61))
    _beat(session, "other")
    assert heartbeats.counted(session) == {"calls": 3}
    assert _beat(session, "away", counts={"calls": 5}, told={"calls": 3})
    assert heartbeats.counted(session) == {"calls": 5}
    _age(session, "away", timedelta(minutes=61))
    _beat(session, "other")
    heartbeats.leave(session, "away", counts={"calls": 4}, told={"calls": 2})
    assert heartbeats.counted(session) == {"calls": 7}


def test_a_new_row_of_which_the_worker_was_not_told_is_counted_once(session: Session) -> None:
    """The answer to the commit that began it was lost."""
    _beat(session, "away", counts={"calls": 3})
    _age(session, "away", timedelta(minutes=61))
    _beat(session, "other")
    assert _beat(session, "away", counts={"calls": 5}, told={"calls": 3})
    assert _beat(session, "away", counts={"calls": 6}, told={"calls": 3}, perhaps_new=True)
    assert heartbeats.counted(session) == {"calls": 6}
    # From here on the worker counts from where the new row began.
    assert not _beat(session, "away", counts={"calls": 4}, told={"calls": 3})
    assert heartbeats.counted(session) == {"calls": 7}
