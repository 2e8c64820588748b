"""Leases: one holder at a time, a higher fence for each, and no way back for who was overtaken."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database import db
from tests.factories import NOW

KEY = "model:1"


def take(session: Session, owner: str, *, after: float = 0, seconds: float = 30):
    return leases.acquire(
        session, KEY, owner=owner, seconds=seconds, now=NOW + timedelta(seconds=after)
    )


def test_second_worker_gets_nothing_while_the_first_holds(session: Session) -> None:
    assert take(session, "a") is not None
    assert take(session, "b", after=29.9) is None


def test_lease_that_ran_out_goes_to_the_next_with_a_higher_fence(session: Session) -> None:
    first = take(session, "a")
    second = take(session, "b", after=30)
    assert first is not None
    assert second is not None
    assert second.fence > first.fence


def test_released_lease_is_free_at_once_and_its_fence_still_grows(session: Session) -> None:
    first = take(session, "a")
    assert first is not None
    leases.release(session, first, now=NOW)
    second = take(session, "b")
    assert second is not None
    assert second.fence == first.fence + 1


def test_renewing_prolongs(session: Session) -> None:
    held = take(session, "a")
    assert held is not None
    leases.renew(session, held, seconds=30, now=NOW + timedelta(seconds=20))
    assert take(session, "b", after=49.9) is None
    assert take(session, "b", after=50) is not None


@pytest.mark.parametrize("what", ["renew", "hold"])
def test_overtaken_holder_is_told(session: Session, what: str) -> None:
    first = take(session, "a")
    assert first is not None
    take(session, "b", after=31)
    deed = {
        "renew": lambda: leases.renew(session, first, seconds=30, now=NOW + timedelta(seconds=32)),
        "hold": lambda: leases.hold(session, first),
    }[what]
    with pytest.raises(leases.LeaseLost):
        deed()


def test_overtaken_holder_cannot_release_the_new_ones_lease(session: Session) -> None:
    first = take(session, "a")
    assert first is not None
    take(session, "b", after=31)
    leases.release(session, first, now=NOW + timedelta(seconds=32))
    assert take(session, "c", after=33) is None


def test_clock_that_runs_ahead_overtakes_but_the_fence_decides(session: Session) -> None:
    """A worker whose clock is an hour ahead takes a living lease; the first cannot write then."""
    first = take(session, "a")
    assert first is not None
    assert take(session, "b", after=3600) is not None
    with pytest.raises(leases.LeaseLost):
        leases.hold(session, first)


def test_of_many_at_once_exactly_one_gets_it(database: Engine) -> None:
    sessions = db.session_factory(database)
    start = threading.Barrier(6)
    got: list[str] = []

    def run(owner: str) -> None:
        start.wait()
        with sessions() as mine, mine.begin():
            if take(mine, owner) is not None:
                got.append(owner)

    threads = [threading.Thread(target=run, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
