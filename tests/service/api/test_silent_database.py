"""A database whose connections go silent: no error, no answer, and nothing that ends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from service.ledger.registry import keys
from service.main import create_app
from service.settings import Settings
from tests import factories, proxy
from tests.proxy import Proxy
from tests.service.api import callers, serving

#: It waits for time limits: `make test-faults`.
pytestmark = [pytest.mark.postgres, pytest.mark.slow]

URL = "/v1/deletion-requests"
#: Whoever waits longer than this for an answer has given up: a test then fails.
ANSWER_SECONDS = 15


@pytest.fixture
def network(postgres_database: Engine) -> Iterator[Proxy]:
    with proxy.to(postgres_database.url) as made:
        yield made


@pytest.fixture
def app(postgres_database: Engine, network: Proxy, tmp_path: Path) -> FastAPI:
    """The application with the default limits, on the database behind the proxy."""
    with Session(postgres_database) as session:
        factories.dataset(session, name="faces", rows=50)
        session.commit()
    return create_app(
        Settings(
            _env_file=None,
            state_dir=tmp_path,
            database_url=network.through(postgres_database.url),
        )
    )


@pytest.fixture
def client(app: FastAPI, postgres_database: Engine) -> Iterator[httpx.Client]:
    with Session(postgres_database) as session:
        _, secret = keys.create(session, "test", ["admin"], actor="cli")
        session.commit()
    headers = {"Authorization": f"Bearer {secret}"}
    with (
        serving.served(app) as port,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=ANSWER_SECONDS
        ) as made,
    ):
        yield made


def test_every_request_is_answered_in_time_and_intake_goes_on_afterwards(
    app: FastAPI, client: httpx.Client, network: Proxy
) -> None:
    callers.beat(app)
    assert _ask(client, "r0").status_code == 202
    assert client.get("/readyz").status_code == 200
    network.swallow()
    with ThreadPoolExecutor(60) as many:
        asked = [many.submit(_ask, client, f"r{row}") for row in range(1, 31)]
        read = [many.submit(client.get, URL) for _ in range(60)]
        ready = [many.submit(client.get, "/readyz") for _ in range(3)]
        alive = many.submit(client.get, "/healthz")
    assert alive.result().status_code == 200
    for one in (*asked, *read, *ready):
        callers.assert_problem(one.result(), 503)
    assert {one.result().json()["database"] for one in ready} == {"unreachable"}
    network.forward()
    _until(lambda: _ask(client, "r40").status_code == 202)
    _until(lambda: client.get("/readyz").json().get("database", "reachable") == "reachable")


def test_an_answer_that_is_lost_in_the_middle_of_a_statement_is_not_waited_for(
    client: httpx.Client, network: Proxy, postgres_database: Engine
) -> None:
    assert _ask(client, "r0").status_code == 202
    with (
        ThreadPoolExecutor(1) as one,
        postgres_database.connect() as other,
        other.begin() as locked,
    ):
        # Every writer of the ledger waits for this row at its commit.
        other.execute(text("SELECT * FROM audit_head FOR UPDATE"))
        asked = one.submit(_ask, client, "r1")
        _until(lambda: _waiting(postgres_database) == 1)
        network.swallow()
        locked.rollback()
        callers.assert_problem(asked.result(), 503)
    network.forward()
    _until(lambda: _ask(client, "r2").status_code == 202)


def test_a_lock_that_nobody_releases_is_not_waited_for(
    client: httpx.Client, postgres_database: Engine
) -> None:
    with postgres_database.connect() as other, other.begin():
        other.execute(text("SELECT * FROM audit_head FOR UPDATE"))
        answer = _ask(client, "r1")
        callers.assert_problem(answer, 503, "nothing was recorded; try again")
        # The database does answer: whoever looks for the cause need not look there.
        assert answer.json()["code"] == "busy"
    _until(lambda: _ask(client, "r1").status_code == 202)


def _ask(client: httpx.Client, record: str) -> httpx.Response:
    return client.post(URL, json={"dataset": "faces", "record_ids": [record]})


def _waiting(database: Engine) -> int:
    with database.connect() as connection:
        return connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        ).scalar_one()


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
