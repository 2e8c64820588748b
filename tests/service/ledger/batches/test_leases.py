"""Leases: one holder at a time, a higher fence for each, and no way back for who was overtaken."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.tables import Lease
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


HOURS = 5 * 3600


def test_lease_of_a_dead_holder_is_free_after_its_time_however_far_the_clock_was_set_back(
    session: Session,
) -> None:
    first = take(session, "a", after=HOURS)
    assert take(session, "b") is None  # the clock is right again, and the holder may live
    assert take(session, "b", after=29.9) is None
    second = take(session, "b", after=30)
    assert first is not None
    assert second is not None
    assert second.fence == first.fence + 1


def test_living_holder_keeps_its_lease_when_the_clock_is_set_back(session: Session) -> None:
    held = take(session, "a", after=HOURS)
    assert held is not None
    assert take(session, "b") is None
    for after in (10, 20, 30, 40):
        leases.renew(session, held, seconds=30, now=NOW + timedelta(seconds=after))
        assert take(session, "b", after=after) is None
    leases.hold(session, held)
    assert take(session, "b", after=69.9) is None
    assert take(session, "b", after=70) is not None


def test_clocks_that_differ_a_little_do_not_shorten_a_lease(session: Session) -> None:
    take(session, "a", after=59, seconds=600)
    assert take(session, "b", seconds=30) is None
    assert take(session, "b", after=658) is None
    assert take(session, "b", after=659) is not None


def test_it_is_worth_trying_a_lease_from_before_the_clock_was_set_back(session: Session) -> None:
    """Or a lease that is never released, and only looked at, would wait for the old time."""
    take(session, "a", after=HOURS)
    assert leases.is_free(session, KEY, now=NOW)
    assert take(session, "b") is None
    assert not leases.is_free(session, KEY, now=NOW + timedelta(seconds=29))
    assert leases.is_free(session, KEY, now=NOW + timedelta(seconds=30))


def test_leases_of_an_earlier_release_and_of_nobody_are_as_they_were(session: Session) -> None:
    assert leases.is_free(session, KEY, now=NOW)
    held = take(session, "a")
    assert held is not None
    session.execute(update(Lease).values(renewed_at=None))
    assert not leases.is_free(session, KEY, now=NOW)
    assert take(session, "b", after=29) is None
    leases.release(session, held, now=NOW)
    assert leases.is_free(session, KEY, now=NOW)
    assert take(session, "b") is not None


def test_holder_from_before_a_restored_backup_ends_nothing_of_who_has_its_fence_now(
    session: Session,
) -> None:
    """The restored row knows nothing of the first holder, so the fence is given out again."""
    first = take(session, "a")
    assert first is not None
    session.execute(update(Lease).values(owner=None, fence=first.fence - 1))
    second = take(session, "b")
    assert second is not None
    assert second.fence == first.fence
    leases.release(session, first, now=NOW)
    assert take(session, "c") is None
    for deed in (
        lambda: leases.hold(session, first),
        lambda: leases.renew(session, first, seconds=30, now=NOW),
    ):
        with pytest.raises(leases.LeaseLost):
            deed()
    leases.hold(session, second)
