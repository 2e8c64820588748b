"""Calls that are recorded together are still each other's strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text

from service import wake
from service.api import recorder
from service.errors import NotFound, ServiceError, Unavailable
from service.ledger.audit import chain
from service.ledger.database import db
from service.ledger.database.tables import AuditEvent, Dataset, DeletionRequest
from service.ledger.requests import idempotency, outlook, page
from service.ledger.requests.page import QueueFull
from service.ledger.selection.matching import Ask
from tests import factories

Woken = list[tuple[str, str]]


@pytest.fixture
def woken() -> Woken:
    return []


@pytest.fixture
def sender(woken: Woken) -> Iterator[wake.Wake]:
    made = wake.Wake(lambda task, queue: woken.append((task, queue)))
    yield made
    made.close()


@pytest.fixture
def made(database: Engine, sender: wake.Wake) -> Iterator[recorder.Recorder]:
    sessions = db.session_factory(database)
    with sessions() as session:
        factories.dataset(session, name="faces", rows=60)
        session.commit()
    running = recorder.Recorder(sessions, factories.DIGESTER, sender, max_queue=1000)
    yield running
    running.close()


def _submission(
    record: str, *, claim: idempotency.Claim | None = None, **more: Any
) -> page.Submission:
    return page.Submission(Ask("faces", "records", (record,), **more), "key_test", claim)


def _recorded(database: Engine) -> set[str]:
    with db.session_factory(database)() as session:
        return set(session.scalars(select(DeletionRequest.id)))


def test_every_call_gets_its_own_outcomes(made: recorder.Recorder, database: Engine) -> None:
    async def call_all() -> list[list[recorder.Outcome]]:
        calls = [[_submission(f"r{row}") for _ in range(1 + row % 3)] for row in range(40)]
        return await asyncio.gather(*(made.record(call) for call in calls))

    outcomes = asyncio.run(call_all())
    assert [len(share) for share in outcomes] == [1 + row % 3 for row in range(40)]
    receipts = [one for share in outcomes for one in share]
    assert {one.answer["id"] for one in receipts if isinstance(one, page.Receipt)} == (
        _recorded(database)
    )
    assert len(_recorded(database)) == len(receipts)


def test_a_refusal_is_its_callers_alone(made: recorder.Recorder, database: Engine) -> None:
    unknown = page.Submission(Ask("nowhere", "records", ("r0",)), "key_test")
    [refusal, receipt] = asyncio.run(made.record([unknown, _submission("r1")]))
    assert isinstance(refusal, NotFound)
    assert isinstance(receipt, page.Receipt)
    assert _recorded(database) == {receipt.answer["id"]}


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # SQLite stores a NUL
def test_a_call_that_the_database_refuses_does_not_fail_the_others(
    made: recorder.Recorder, database: Engine
) -> None:
    async def call_all() -> list[Any]:
        poison = _submission("r0", reason="a\0b")
        calls = [[_submission(f"r{row}")] for row in range(1, 20)]
        calls.insert(10, [poison])
        return await asyncio.gather(*(made.record(call) for call in calls), return_exceptions=True)

    outcomes = asyncio.run(call_all())
    failed = [place for place, one in enumerate(outcomes) if isinstance(one, Exception)]
    assert failed == [10]
    assert len(_recorded(database)) == 19


def test_workers_are_woken_after_the_commit_and_not_for_repeats(
    made: recorder.Recorder, sender: wake.Wake, woken: Woken
) -> None:
    asyncio.run(made.record([page.Submission(Ask("nowhere", "records", ("r",)), "key_test")]))
    assert woken == []
    asyncio.run(made.record([_submission("r0")]))
    sender.close()
    assert len(woken) == 1


def test_a_closed_recorder_records_what_waits_and_takes_no_more(
    made: recorder.Recorder, database: Engine
) -> None:
    async def call_and_close() -> list[list[recorder.Outcome]]:
        calls = [asyncio.create_task(made.record([_submission(f"r{row}")])) for row in range(20)]
        await asyncio.sleep(0)
        await asyncio.to_thread(made.close)
        with pytest.raises(Unavailable):
            await made.record([_submission("r30")])
        return await asyncio.gather(*calls)

    assert len(asyncio.run(call_and_close())) == 20
    assert len(_recorded(database)) == 20


#: Locks, models, records; the rows; the lines. SQLite has one statement for each table that is
#: written, one for the chain's head, and BEGIN besides.
STATEMENTS = {"postgresql": 5, "sqlite": 9}


def test_a_group_takes_the_same_few_statements_whatever_its_size(
    made: recorder.Recorder, database: Engine
) -> None:
    with db.session_factory(database).begin() as session:
        data = session.scalars(select(Dataset)).one()
        factories.version(session, factories.model(session, data))
    made._outlooks = outlook.Outlooks(60.0)
    asyncio.run(made.record([_submission("r0")]))  # counts the open requests, and looks ahead
    counted: list[int] = []
    for size in (1, 50):
        statements: list[str] = []

        def saw(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            statements.append(statement)  # noqa: B023  # removed before the next turn

        event.listen(database, "after_cursor_execute", saw)
        asyncio.run(made.record([_submission(f"r{row}") for row in range(size)]))
        event.remove(database, "after_cursor_execute", saw)
        counted.append(len(statements))
    assert counted == [STATEMENTS[database.dialect.name]] * 2


def test_calls_that_arrive_together_share_one_transaction(
    made: recorder.Recorder, database: Engine
) -> None:
    async def call_all() -> None:
        await asyncio.gather(*(made.record([_submission(f"r{row}")]) for row in range(40)))

    asyncio.run(call_all())
    with db.session_factory(database)() as session:
        moments = session.scalars(select(AuditEvent.at).distinct()).all()
    assert len(moments) == 1


@contextmanager
def _nobody_commits(database: Engine) -> Iterator[Callable[[int], None]]:
    """Within the block no writer gets past the chain's head; await that so many wait there."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )

    def await_waiting(count: int) -> None:
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as looking:
            while looking.scalar(waiting) != count:
                pass

    with database.connect() as other:
        other.execute(text("SELECT * FROM audit_head FOR UPDATE"))
        yield await_waiting
        other.rollback()


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_group_is_prepared_while_the_one_before_commits(
    made: recorder.Recorder, database: Engine
) -> None:
    async def call_one_after_the_other() -> list[list[recorder.Outcome]]:
        with _nobody_commits(database) as await_waiting:
            calls = []
            for count in (1, 2):
                calls.append(asyncio.create_task(made.record([_submission(f"r{count}")])))
                await asyncio.to_thread(await_waiting, count)
        return await asyncio.gather(*calls)

    outcomes = [one for share in asyncio.run(call_one_after_the_other()) for one in share]
    told = {one.answer["id"] for one in outcomes if isinstance(one, page.Receipt)}
    assert len(told) == 2
    assert _recorded(database) == told
    with db.session_factory(database)() as session:
        assert chain.verify(session).sound


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_queue_has_no_room_for_what_would_exceed_it_with_the_group_that_is_being_committed(
    database: Engine, sender: wake.Wake
) -> None:
    sessions = db.session_factory(database)
    with sessions.begin() as session:
        factories.dataset(session, name="faces", rows=10)
    full = recorder.Recorder(sessions, factories.DIGESTER, sender, max_queue=3)

    async def fill_and_call() -> list[recorder.Outcome]:
        with _nobody_commits(database) as await_waiting:
            first = asyncio.create_task(full.record([_submission(f"r{row}") for row in range(2)]))
            await asyncio.to_thread(await_waiting, 1)
            second = asyncio.create_task(full.record([_submission("r2"), _submission("r3")]))
            await asyncio.to_thread(await_waiting, 2)
        return [*await first, *await second]

    try:
        *recorded, refused = asyncio.run(fill_and_call())
    finally:
        full.close()
    assert all(isinstance(one, page.Receipt) for one in recorded)
    assert isinstance(refused, QueueFull)


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_repeated_key_in_the_next_group_gets_the_answer_of_the_one_that_is_being_committed(
    made: recorder.Recorder, database: Engine
) -> None:
    async def call_twice() -> list[recorder.Outcome]:
        claim = idempotency.Claim("key_test", "k", ("d" * 64,))
        with _nobody_commits(database) as await_waiting:
            calls = []
            for count in (1, 2):
                calls.append(asyncio.create_task(made.record([_submission("r0", claim=claim)])))
                await asyncio.to_thread(await_waiting, count)
        return [one for share in await asyncio.gather(*calls) for one in share]

    first, second = asyncio.run(call_twice())
    assert isinstance(first, page.Receipt)
    assert isinstance(second, page.Receipt)
    assert (first.repeated, second.repeated) == (False, True)
    assert first.answer == second.answer
    assert _recorded(database) == {first.answer["id"]}


def _counted_transactions(database: Engine) -> int:
    with db.session_factory(database)() as session:
        return len(session.scalars(select(AuditEvent.at).distinct()).all())


def test_calls_that_list_many_rows_are_split_into_transactions(
    made: recorder.Recorder, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "ROWS_AT_ONCE", 10)

    async def call_all() -> list[list[recorder.Outcome]]:
        few = [[_submission(f"r{row}")] for row in range(5)]
        many = [_submission(f"r{row}") for row in range(5, 30)]
        return await asyncio.gather(*(made.record(call) for call in [*few, many]))

    shares = asyncio.run(call_all())
    told = [one.answer["id"] for share in shares for one in share if hasattr(one, "answer")]
    assert len(told) == len(set(told)) == 30
    assert _recorded(database) == set(told)
    assert _counted_transactions(database) == 3


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # SQLite stores a NUL
def test_a_call_whose_later_transaction_fails_is_told_which_requests_stand(
    made: recorder.Recorder, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "ROWS_AT_ONCE", 2)
    call = [_submission("r0"), _submission("r1"), _submission("r2", reason="a\0b")]
    *stands, lost = asyncio.run(made.record(call))
    assert [one.answer["id"] for one in stands if isinstance(one, page.Receipt)] == [
        one.id for one in call[:2]
    ]
    assert isinstance(lost, ServiceError)
    assert lost.status == 422
    assert _recorded(database) == {one.id for one in call[:2]}
