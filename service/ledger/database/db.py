"""Engine and sessions for SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Dialect,
    Engine,
    MetaData,
    and_,
    create_engine,
    event,
    false,
    func,
    literal_column,
)
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from service.ledger.database import connections
from service.ledger.database.connections import Limits

#: How long a writer on SQLite waits for another writer (milliseconds).
BUSY_TIMEOUT_MS = 15_000

#: SQLite checks at least every tenth of a second whether the other writer is done; twice that is
#: enough even on a busy machine.
LOOK_SECONDS = 0.2

#: Execution option that lets a read-only transaction on SQLite skip the write lock.
READ_ONLY = "ledger_read_only"


class Base(DeclarativeBase):
    """Base of every table; constraint names are fixed so that migrations can address them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Instant(TypeDecorator[datetime]):
    """A moment in UTC, time-zone aware on both databases (SQLite itself stores no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC; raise ``ValueError`` for one without a time zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError("the ledger takes time-zone aware moments only")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the stored moment with its time zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


def engine(url: str, *, pool_size: int = 20, limits: Limits | None = None) -> Engine:
    """Return an engine for ``url``; on SQLite with WAL and immediate write transactions.

    On PostgreSQL every wait has one of the ``limits``. Errors of the engine do not quote the values
    of a statement, which may identify a person.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        made = create_engine(
            parsed, connect_args={"check_same_thread": False}, hide_parameters=True
        )
        event.listen(made, "connect", _prepare_sqlite)
        event.listen(made, "begin", _begin_sqlite)
        return made
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ArgumentError("the ledger is kept in SQLite or PostgreSQL, in no other database")
    parsed = parsed.set(drivername="postgresql+psycopg")
    limits = limits or Limits()
    made = create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_timeout=limits.pool_seconds,
        hide_parameters=True,
    )
    connector = connections.Connector(limits)

    def connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
        return connector.connect(arguments, parameters)

    event.listen(made, "do_connect", connect)
    event.listen(made, "reset", _reset_limit)
    # The dialect's own check would wait as long as for any other statement.
    made.dialect.do_ping = connections.ping  # type: ignore[assignment]  # the driver's own type
    return made


def session_factory(bound: Engine) -> sessionmaker[Session]:
    """Return sessions that keep loaded rows usable after the commit."""
    return sessionmaker(bound, expire_on_commit=False)


def among(column: Any, *values: str) -> ColumnElement[bool]:
    """Return SQL ``column IN (...)`` with literal values, so that a partial index can be used.

    A prepared statement is planned for any value of its parameters.
    """
    found: ColumnElement[bool] = column.in_([literal_column(f"'{value}'") for value in values])
    return found


def close_together(column: Any, values: Collection[Any]) -> ColumnElement[bool]:
    """Return SQL ``column IN (values)`` for values that lie close together in an index.

    The index is read once from the smallest to the largest value, instead of being searched for
    each of them. The list only filters what lies in between: of ``coalesce(…)``, no index is used.
    """
    if not values:
        return false()
    found: ColumnElement[bool] = func.coalesce(column, column).in_(values)
    return and_(column.between(min(values), max(values)), found)


def read_only(session: Session) -> Session:
    """Declare, before its first statement, that this session's transaction only reads."""
    session.connection(execution_options={READ_ONLY: True})
    return session


@contextmanager
def together(session: Session) -> Iterator[None]:
    """Wait once for everything that a session bound to a connection writes in the block.

    On PostgreSQL the statements are sent in a pipeline, and errors are raised at the commit, with
    which the block ends. Nothing can be read in the block. On SQLite there is nothing to wait for.
    """
    if session.get_bind().dialect.name != "postgresql":
        yield
        return
    driver: Any = session.connection().connection.driver_connection
    try:
        with driver.pipeline():
            yield
    except BaseException:
        # After a failed commit SQLAlchemy considers the transaction ended, but the server, which
        # stopped before the COMMIT, does not.
        if not driver.closed:
            driver.rollback()
        raise


def take_time(connection: Connection, seconds: float | None) -> None:
    """Set the time limit of each statement in the running transaction; None: no limit.

    For the few statements that may take long, such as migrations. Does nothing on SQLite.
    """
    if connection.dialect.name != "postgresql":
        return
    limits = Limits(statement_seconds=seconds)
    milliseconds = 0 if seconds is None else round(seconds * 1000)
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
    driver: Any = connection.connection.driver_connection
    driver.answer_seconds = limits.answer_seconds


def give_way(bound: Engine, *, since: float) -> None:
    """Let other writers in between two of many transactions; ``since`` (monotonic) they could.

    SQLite does not wake waiting writers: they poll for the write lock, and would never find it free
    between transactions that follow each other at once.
    """
    if bound.dialect.name == "sqlite":
        time.sleep(max(0.0, since + LOOK_SECONDS - time.monotonic()))


def _reset_limit(connection: Any, _record: Any, _state: Any) -> None:
    connection.answer_seconds = connection.usual_answer_seconds


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions itself: a deferred BEGIN that later writes fails with
    # "database is locked" under contention, whatever the busy timeout.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")  # an accepted request must survive a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    # Overwrite deleted content inside the database file as well.
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch the file to its write-ahead log, which is a persistent setting.

    If several processes open a new file at once, one switches it; SQLite's busy timeout does not
    apply to the others, so that they have to retry.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    options: dict[str, Any] = dict(connection.get_execution_options())
    connection.exec_driver_sql("BEGIN" if options.get(READ_ONLY) else "BEGIN IMMEDIATE")
