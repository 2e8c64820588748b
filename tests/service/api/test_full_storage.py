"""A database whose disk is full or refuses to write is not one that does not answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError

from service.ledger.database import storage
from service.main import create_app
from service.settings import Settings
from tests import factories
from tests.faults import disks
from tests.service.api import callers
from tests.service.api.callers import assert_problem
from workers.cli import errors

URL = "/v1/deletion-requests"
ASK = {"dataset": "faces", "record_ids": ["r0"]}


def _furnish(app: FastAPI) -> TestClient:
    with app.state.sessions() as session:
        factories.dataset(session, name="faces", rows=4)
        session.commit()
    callers.beat(app)
    return callers.client(app)


def _assert_told(client: TestClient, answer: httpx.Response, fault: storage.Fault) -> None:
    assert_problem(answer, 503, "Idempotency-Key")
    problem = answer.json()
    assert problem["code"] == f"storage-{fault.value.replace('_', '-')}"
    assert "does not answer" not in answer.text
    assert int(answer.headers["Retry-After"]) > 0
    ready = client.get("/readyz")
    assert_problem(ready, 503, storage.DETAILS[fault])
    seen = {part: ready.json()[part] for part in ("database", "worker")}
    assert seen == {"database": fault.value, "worker": "unknown"}


@pytest.fixture
def disk(tmp_path: Path, sqlite_template: Path) -> Iterator[disks.Disk]:
    refused = disks.refusal()
    if refused is not None:
        pytest.skip(f"no disk can be mounted here: {refused}")
    made = disks.Disk(tmp_path / "small", megabytes=8)
    shutil.copy(sqlite_template, tmp_path / "small" / "ledger.db")
    yield made
    disks.unmount_below(tmp_path)


def test_a_full_disk_under_sqlite_is_called_so_and_recovered_from(
    disk: disks.Disk, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'small' / 'ledger.db'}"
    settings = Settings(_env_file=None, state_dir=tmp_path, database_url=url)
    with callers.application(settings) as app:
        client = _furnish(app)
        assert client.get("/readyz").status_code == 200
        disk.fill()
        # Before anybody has tried to write, too.
        assert client.get("/readyz").json()["database"] == "full"
        full = client.post(URL, json={**ASK, "reason": "x" * 2000})
        while full.status_code == 202:  # as long as the log has room for it
            full = client.post(URL, json={**ASK, "reason": "x" * 2000})
        _assert_told(client, full, storage.Fault.FULL)
        known = len(client.get(URL).json()["items"])
        disk.free()
        assert client.post(URL, json=ASK).status_code == 202
        assert len(client.get(URL).json()["items"]) == known + 1


def test_sqlite_that_may_only_read_is_called_so(sqlite_database: Engine, tmp_path: Path) -> None:
    app = create_app(callers.settings_on(sqlite_database, tmp_path))
    with TestClient(app):
        client = _furnish(app)
        app.state.engine.dispose()

        @event.listens_for(app.state.engine, "connect")
        def _only_read(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA query_only = ON")

        _assert_told(client, client.post(URL, json=ASK), storage.Fault.READ_ONLY)
        assert client.get(URL).status_code == 200


@contextmanager
def _done(database: Engine, begin: str, end: str) -> Iterator[None]:
    """What the statement does, for the block; the database serves other tests as well."""
    with database.begin() as connection:
        connection.execute(text(begin))
    try:
        yield
    finally:
        with database.begin() as connection:
            connection.execute(text("SET TRANSACTION READ WRITE"))
            connection.execute(text(end))


@pytest.mark.postgres
def test_postgresql_that_may_only_read_is_called_so(
    postgres_database: Engine, tmp_path: Path
) -> None:
    app = create_app(callers.settings_on(postgres_database, tmp_path))
    change = f'ALTER DATABASE "{postgres_database.url.database}" %s default_transaction_read_only'
    with TestClient(app):
        client = _furnish(app)
        with _done(postgres_database, change % "SET" + " = on", change % "RESET"):
            app.state.engine.dispose()
            answer = client.post(URL, json=ASK)
        _assert_told(client, answer, storage.Fault.READ_ONLY)


_REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{state}'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON deletion_requests
    FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("state", "fault"), [("53100", storage.Fault.FULL), ("58030", storage.Fault.FAULTY)]
)
def test_what_postgresql_says_of_its_disk_is_passed_on(
    postgres_database: Engine, tmp_path: Path, state: str, fault: storage.Fault
) -> None:
    app = create_app(callers.settings_on(postgres_database, tmp_path))
    with TestClient(app):
        client = _furnish(app)
        with _done(postgres_database, _REFUSE.format(state=state), "DROP FUNCTION refuse CASCADE"):
            answer = client.post(URL, json=ASK)
        _assert_told(client, answer, fault)


def test_a_command_says_what_is_wrong_with_the_disk(sqlite_database: Engine) -> None:
    with sqlite_database.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 1"))  # no more pages than there are
        wanted = text("CREATE TABLE more AS SELECT zeroblob(1000000)")
        with pytest.raises(DBAPIError) as caught:
            connection.execute(wanted)
    told = errors.describe(caught.value)
    assert storage.DETAILS[storage.Fault.FULL] in told
    assert "does not answer" not in told
