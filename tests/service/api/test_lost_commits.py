"""Commits whose answer is lost: each submission is recorded once, and its caller told so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import URL, Engine, select

from service import wake
from service.api import recorder
from service.ledger.database import db
from service.ledger.database.tables import DeletionRequest
from service.ledger.requests import idempotency, page
from service.ledger.selection.matching import Ask
from tests import factories, proxy

pytestmark = pytest.mark.postgres


@pytest.fixture
def between(postgres_url: URL, postgres_database: Engine) -> Iterator[proxy.Proxy]:
    with db.session_factory(postgres_database).begin() as session:
        factories.dataset(session, name="faces", rows=60)
    with proxy.to(postgres_url) as made:
        yield made


@contextmanager
def _recording(
    postgres_url: URL, between: proxy.Proxy, *, patience_seconds: float = 60.0
) -> Iterator[recorder.Recorder]:
    engine = db.engine(between.through(postgres_url))
    with engine.connect():
        pass  # a new connection has a COMMIT of its own
    sender = wake.Wake(lambda _task, _queue: None)
    made = recorder.Recorder(
        db.session_factory(engine),
        factories.DIGESTER,
        sender,
        max_queue=1000,
        patience_seconds=patience_seconds,
    )
    try:
        yield made
    finally:
        made.close()
        sender.close()
        engine.dispose()


def _submission(row: int, *, key: str | None = None) -> page.Submission:
    claim = None if key is None else idempotency.Claim("key_test", key, ("d" * 64,))
    return page.Submission(Ask("faces", "records", (f"r{row}",)), "key_test", claim)


def _recorded(engine: Engine) -> list[str]:
    with db.session_factory(engine)() as session:
        return sorted(session.scalars(select(DeletionRequest.id)))


async def _ask_each(
    made: recorder.Recorder, submissions: list[page.Submission]
) -> list[recorder.Outcome]:
    """A call with most of them, as a batch is, and calls of their own."""
    calls = [submissions[:-3], *([one] for one in submissions[-3:])]
    shares = await asyncio.gather(*(made.record(call) for call in calls))
    return [one for share in shares for one in share]


@pytest.mark.parametrize("reaches_the_server", [True, False])
@pytest.mark.parametrize("keyed", [True, False])
def test_requests_of_a_lost_commit_are_recorded_once(
    postgres_url: URL,
    postgres_database: Engine,
    between: proxy.Proxy,
    reaches_the_server: bool,
    keyed: bool,
) -> None:
    submissions = [_submission(row, key=f"k{row}" if keyed else None) for row in range(10)]
    with _recording(postgres_url, between) as made:
        if reaches_the_server:
            between.lose_answers_to_commit()
        else:
            between.lose_commits()
        outcomes = asyncio.run(_ask_each(made, submissions))
    assert between.lost == 1
    told = [one.answer["id"] for one in outcomes if isinstance(one, page.Receipt)]
    assert told == [one.id for one in submissions]
    assert _recorded(postgres_database) == sorted(told)
    assert not any(one.repeated for one in outcomes if isinstance(one, page.Receipt))


def test_outcome_that_stays_unknown_names_the_requests_to_look_for(
    postgres_url: URL, postgres_database: Engine, between: proxy.Proxy
) -> None:
    submissions = [_submission(row) for row in range(3)]

    async def ask_and_lose_the_database(made: recorder.Recorder) -> list[recorder.Outcome]:
        between.lose_answers_to_commit()
        asking = asyncio.create_task(made.record(submissions))
        await asyncio.to_thread(between.await_lost)
        between.refuse()
        return await asking

    with (
        _recording(postgres_url, between, patience_seconds=0.0) as made,
        pytest.raises(recorder.OutcomeUnknown) as caught,
    ):
        asyncio.run(ask_and_lose_the_database(made))
    assert (caught.value.status, caught.value.code) == (503, "outcome-unknown")
    assert caught.value.extra["deletion_requests"] == [one.id for one in submissions]
    assert _recorded(postgres_database) == sorted(one.id for one in submissions)


def test_each_call_of_a_group_whose_outcome_stays_unknown_learns_its_own_requests(
    postgres_url: URL, postgres_database: Engine, between: proxy.Proxy
) -> None:
    submissions = [_submission(row) for row in range(3)]

    async def ask_and_lose_the_database(made: recorder.Recorder) -> list[object]:
        between.lose_answers_to_commit()
        calls = [made.record([one]) for one in submissions]
        asking = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.to_thread(between.await_lost)
        between.refuse()
        return list(await asking)

    with _recording(postgres_url, between, patience_seconds=0.0) as made:
        told = asyncio.run(ask_and_lose_the_database(made))
    unknown = [one for one in told if isinstance(one, recorder.OutcomeUnknown)]
    assert unknown == told
    assert [one.extra["deletion_requests"] for one in unknown] == [[one.id] for one in submissions]
    assert _recorded(postgres_database) == sorted(one.id for one in submissions)
