"""A transaction locks and reads nothing twice, and forgets what it has locked with its locks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database import locks
from service.ledger.database.locks import Hold
from service.ledger.database.tables import Dataset
from service.ledger.selection import exclusions, naming
from tests import factories
from tests.factories import NOW


@pytest.fixture
def data(session: Session) -> Dataset:
    made = factories.dataset(session)
    session.commit()
    return made


@pytest.fixture
def statements(database: Engine) -> Iterator[list[str]]:
    seen: list[str] = []

    def saw(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.startswith("BEGIN"):  # SQLite's, from here
            seen.append(statement)

    event.listen(database, "after_cursor_execute", saw)
    yield seen
    event.remove(database, "after_cursor_execute", saw)


def test_what_is_locked_is_not_locked_again(
    session: Session, data: Dataset, statements: list[str]
) -> None:
    model = factories.model(session, data)
    locks.dataset(session, data.id, Hold.PUBLICATION)
    locks.models(session, [model.id])
    statements.clear()
    for hold in Hold:
        assert locks.dataset(session, data.id, hold) is data
    assert locks.models(session, [model.id]) == [model]
    assert statements == []


@pytest.mark.parametrize(
    ("before", "then"),
    [
        (Hold.INTAKE, Hold.REVISION),
        (Hold.REVISION, Hold.PUBLICATION),
        (Hold.INTAKE, Hold.INTAKE),  # others may have excluded records meanwhile
    ],
)
def test_a_weaker_lock_does_not_stand_for_a_stronger_one(
    session: Session, data: Dataset, statements: list[str], before: Hold, then: Hold
) -> None:
    locks.dataset(session, data.id, before)
    statements.clear()
    locks.dataset(session, data.id, then)
    assert len(statements) == 1


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_next_transaction_locks_and_reads_anew(
    session: Session, data: Dataset, statements: list[str], end: str
) -> None:
    number = data.id  # a rollback expires the row
    locks.dataset(session, number, Hold.REVISION)
    held = leases.acquire(session, "model:1", owner="w", seconds=30, now=NOW)
    session.commit()
    assert held is not None
    leases.hold(session, held)
    locks.dataset(session, number, Hold.REVISION)
    getattr(session, end)()
    statements.clear()
    leases.hold(session, held)
    locks.dataset(session, number, Hold.REVISION)
    assert len(statements) == 2


def test_locks_of_a_savepoint_are_given_up_with_it(
    session: Session, data: Dataset, statements: list[str]
) -> None:
    savepoint = session.begin_nested()
    locks.dataset(session, data.id, Hold.REVISION)
    savepoint.rollback()
    statements.clear()
    locks.dataset(session, data.id, Hold.REVISION)
    assert len(statements) == 1


def test_a_lease_that_is_held_is_not_asked_for_again(
    session: Session, statements: list[str]
) -> None:
    held = leases.acquire(session, "model:1", owner="w", seconds=30, now=NOW)
    assert held is not None
    statements.clear()
    leases.hold(session, held)
    assert statements == []
    leases.revoke(session, "model:1", now=NOW)
    with pytest.raises(leases.LeaseLost):
        leases.hold(session, held)


def test_a_locked_dataset_has_the_revision_that_the_transaction_gave_it(
    session: Session, data: Dataset
) -> None:
    asked = factories.request(session, data, rows=[1, 4])
    locks.dataset(session, data.id, Hold.REVISION)
    revision = exclusions.exclude(session, data.id, naming.Names.of([asked])).revision
    assert locks.dataset(session, data.id, Hold.REVISION).revision == revision
    assert exclusions.just_excluded(session, data.id, after=revision - 1, revision=revision) == [
        1,
        4,
    ]
    assert exclusions.just_excluded(session, data.id, after=revision, revision=revision) is None
