"""Fixtures shared by every test: real databases, a real Redis, settings of their own.

PostgreSQL and Redis are used when they answer. A test that needs an absent one is left out and
says so; in CI its absence is a failure.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
import redis
from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from service.ledger.audit import chain
from service.ledger.database import db, schema
from service.settings import Settings
from tests import s3

DEFAULT_POSTGRES = ("postgresql://127.0.0.1:5432/postgres", "postgresql://127.0.0.1:5432/test")

BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what was imported and collected to itself: looking for garbage in it takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Let neither SQLite nor the store wait until this process's bytes are on the disk.

    Nobody pulls the plug on a test; a disk takes some milliseconds for each of a test's commits.
    """

    def written(connection: Any, _entry: Any, _proxy: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Pool, "checkout", written)
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda _handle: None)
    yield
    patch.undo()
    event.remove(Pool, "checkout", written)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    engine = db.engine(f"sqlite:///{path}")
    schema.upgrade(engine)
    with engine.connect() as connection:
        connection.connection.dbapi_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def postgres_server() -> URL:
    """A PostgreSQL server on which databases may be made."""
    given = os.environ.get("UNLEARN_TEST_POSTGRES_URL")
    candidates = [given] if given else DEFAULT_POSTGRES
    for candidate in candidates:
        try:
            with psycopg.connect(_for_driver(make_url(candidate)), connect_timeout=3):
                return make_url(candidate)
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[0]
    return leave_out(f"PostgreSQL does not answer (UNLEARN_TEST_POSTGRES_URL): {reason}")


@pytest.fixture(scope="session")
def postgres_url(postgres_server: URL) -> Iterator[URL]:
    """A migrated PostgreSQL database of this test run, emptied after every test that used it."""
    with _new_database(postgres_server) as url:
        # Nobody pulls the plug on a test's database: it need not wait for the disk.
        _run(postgres_server, f'ALTER DATABASE "{url.database}" SET synchronous_commit = off')
        schema.upgrade(url.render_as_string(hide_password=False))
        yield url


@pytest.fixture(scope="session")
def empty_postgres_url(postgres_server: URL) -> Iterator[URL]:
    """A PostgreSQL database of this test run without any table. A test must make none."""
    with _new_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine on the file of one test after the other: it keeps what SQL it has written."""
    return db.engine(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/ledger.db")


@pytest.fixture(scope="session")
def postgres_engine(postgres_url: URL) -> Engine:
    """An engine on the database of one test after the other: it keeps what SQL it has written."""
    return db.engine(postgres_url.render_as_string(hide_password=False))


@pytest.fixture
def sqlite_database(sqlite_template: Path, sqlite_engine: Engine) -> Iterator[Engine]:
    """A fresh migrated SQLite database."""
    path = Path(str(sqlite_engine.url.database))
    for left in path.parent.iterdir():
        left.unlink()
    shutil.copyfile(sqlite_template, path)
    yield sqlite_engine.execution_options()  # what the test listens to ends with it
    sqlite_engine.dispose()


@pytest.fixture(scope="session")
def postgres_cleaner(postgres_url: URL) -> Iterator[Cleaner]:
    """What empties the database of this test run."""
    made = Cleaner(_for_driver(postgres_url))
    yield made
    made.close()


@pytest.fixture
def postgres_database(postgres_engine: Engine, postgres_cleaner: Cleaner) -> Iterator[Engine]:
    """A migrated PostgreSQL database without rows. A test must leave its tables as they are."""
    yield postgres_engine.execution_options()
    postgres_engine.dispose()
    postgres_cleaner.clean()


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> Engine:
    """A migrated database without rows, once of each kind."""
    name = "sqlite_database" if request.param == "sqlite" else "postgres_database"
    engine: Engine = request.getfixturevalue(name)
    return engine


@pytest.fixture(params=BOTH)
def bare_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database of its own without any table, once of each kind."""
    if request.param == "sqlite":
        engine = db.engine(f"sqlite:///{tmp_path}/bare.db")
        yield engine
        engine.dispose()
        return
    with _new_database(request.getfixturevalue("postgres_server")) as url:
        engine = db.engine(url.render_as_string(hide_password=False))
        yield engine
        engine.dispose()


@pytest.fixture(params=BOTH)
def migrated_database(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A migrated database of its own, whose tables a test may change, once of each kind."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    template: URL = request.getfixturevalue("postgres_url")
    server: URL = request.getfixturevalue("postgres_server")
    # A database that somebody is connected to cannot be copied.
    request.getfixturevalue("postgres_cleaner").close()
    with _new_database(server, template=str(template.database)) as url:
        engine = db.engine(url.render_as_string(hide_password=False))
        yield engine
        engine.dispose()


@pytest.fixture
def session(database: Engine) -> Iterator[Session]:
    """A session of the ledger on ``database``."""
    with db.session_factory(database)() as made:
        yield made


@pytest.fixture
def settings(database: Engine, tmp_path: Path) -> Settings:
    """Development settings on ``database`` that keep everything else in a directory of the test."""
    return Settings(
        _env_file=None,
        mode="development",
        state_dir=tmp_path,
        database_url=database.url.render_as_string(hide_password=False),
    )


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Redis database for this test alone; emptied before and after."""
    # Tests that run side by side (pytest-xdist: gw0, gw1, …) take databases 15, 14, …
    side = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    server = os.environ.get("UNLEARN_TEST_REDIS_URL", "redis://127.0.0.1:6379")
    url = f"{server}/{15 - side % 15}"
    client = redis.Redis.from_url(url, socket_connect_timeout=3)
    try:
        client.ping()
    except redis.exceptions.RedisError as error:
        leave_out(f"Redis does not answer at {url} (UNLEARN_TEST_REDIS_URL): {error}")
    client.flushdb()
    yield url
    client.flushdb()
    client.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.Server]:
    """An S3 server over HTTP."""
    for needed in ("obstore", "moto", "flask"):
        if importlib.util.find_spec(needed) is None:
            leave_out(f"{needed} is not installed (pip install --editable '.[dev]')")
    with s3.running() as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> s3.Server:
    """The S3 server, with its endpoint and credentials in the environment."""
    for name, value in {**s3.ENVIRONMENT, "AWS_ENDPOINT_URL": s3_server.url}.items():
        monkeypatch.setenv(name, value)
    return s3_server


class Cleaner:
    """Empties a PostgreSQL database again and again, over one connection.

    A new connection first reads what there is of every table, which takes longer than to empty it.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: psycopg.Connection[Any] | None = None

    def clean(self) -> None:
        """End every other connection, and delete every row that a test has written."""
        if self._connection is not None:
            with suppress(psycopg.OperationalError):  # a test has ended it with all others
                self._connection.execute(_EMPTY)
                return
            self.close()
        self._connection = psycopg.connect(self._address, autocommit=True)
        self._connection.execute(_EMPTY)

    def close(self) -> None:
        """Disconnect until it is called again."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def leave_out(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI needs it: {reason}")
    pytest.skip(reason)  # a laptop without servers still runs all the rest


@contextmanager
def _new_database(server: URL, *, template: str = "template1") -> Iterator[URL]:
    """A uniquely named database on the server, a copy of ``template``, dropped in the end."""
    name = f"unlearn_test_{uuid.uuid4().hex[:12]}"
    _run(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield server.set(database=name)
    finally:
        _run(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _run(server: URL, statements: str) -> None:
    with psycopg.connect(_for_driver(server), autocommit=True) as connection:
        connection.execute(statements)


def _for_driver(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


#: Deleting is far quicker than truncating here: the tables are small, and no file is replaced.
_EMPTY = ";".join(
    [
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        # All rows go: no foreign key needs to be checked, each against rows that are gone already.
        "SELECT set_config('session_replication_role', 'replica', true)"
        " FROM pg_roles WHERE rolname = current_user AND rolsuper",
        "ALTER TABLE audit_events DISABLE TRIGGER USER",
        "ALTER TABLE audit_head DISABLE TRIGGER USER",
        "UPDATE models SET production_id = NULL",
        "UPDATE versions SET batch_id = NULL, parent_id = NULL, anchor_id = NULL",
        *(f"DELETE FROM {table.name}" for table in reversed(db.Base.metadata.sorted_tables)),
        f"INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, '{chain.GENESIS}')",
        "ALTER TABLE audit_events ENABLE TRIGGER USER",
        "ALTER TABLE audit_head ENABLE TRIGGER USER",
        "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, 1, false)"
        " FROM pg_sequences",
    ]
)
