"""Connections to PostgreSQL that do not wait for ever.

A network can go silent: it takes every byte and brings no answer, and no error either. The server
cannot end a statement whose connection is lost, nor can TCP where something in between still
acknowledges. So each side has limits of its own: the server for statements, locks and idle
transactions; TCP for packets that nobody acknowledges; and the client for every answer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.errors import _WaitTimeout

from service.settings import Settings

#: What a client waits for an answer beyond the server's own limit of the statement.
MARGIN_SECONDS = 1.0

#: How long a pooled connection may take to show that it is still there.
PING_SECONDS = 2.0

#: A connection that answered so lately is not asked whether it is there.
FRESH_SECONDS = 1.0

#: For so long after a failed try the next ones fail at once: a server that is away is not waited
#: for by one request after the other.
CLOSED_SECONDS = 0.5

#: Probes of an idle connection, this many seconds apart, before TCP gives it up.
_PROBES, _PROBE_SECONDS = 3, 2


@dataclass(frozen=True)
class Limits:
    """How long to wait for what, in seconds; None: without limit."""

    connect_seconds: float = 5.0
    statement_seconds: float | None = 60.0
    lock_seconds: float | None = 60.0
    #: After which PostgreSQL ends a transaction whose client says nothing.
    idle_seconds: float = 60.0
    #: After which a silent connection is probed, and unacknowledged bytes end it.
    keepalive_seconds: float = 10.0
    #: For a connection of the pool, when all are in use.
    pool_seconds: float = 15.0

    @classmethod
    def of_requests(cls, settings: Settings) -> Self:
        """Return what a request may wait for: together less than 15 seconds by default."""
        return cls(
            connect_seconds=settings.database_connect_seconds,
            statement_seconds=settings.database_statement_seconds,
            lock_seconds=min(settings.database_lock_seconds, settings.database_statement_seconds),
            idle_seconds=2 * settings.database_statement_seconds,
            keepalive_seconds=settings.database_keepalive_seconds,
            pool_seconds=settings.database_connect_seconds,
        )

    @classmethod
    def of_work(cls, settings: Settings) -> Self:
        """Return what a worker may wait for."""
        seconds = settings.database_work_seconds
        return cls(
            connect_seconds=settings.database_connect_seconds,
            statement_seconds=seconds,
            lock_seconds=seconds,
            keepalive_seconds=settings.database_keepalive_seconds,
        )

    @classmethod
    def of_bulk(cls, settings: Settings) -> Self:
        """Return what a command may wait for that reads or moves everything there is."""
        seconds = settings.database_bulk_seconds
        return replace(cls.of_work(settings), statement_seconds=seconds, lock_seconds=seconds)

    @property
    def parameters(self) -> dict[str, int]:
        """The parameters of libpq for a new connection."""
        return {
            "connect_timeout": max(2, round(self.connect_seconds)),
            "keepalives": 1,
            "keepalives_idle": max(1, round(self.keepalive_seconds)),
            "keepalives_interval": _PROBE_SECONDS,
            "keepalives_count": _PROBES,
            "tcp_user_timeout": round(self.keepalive_seconds * 1000),
        }

    @property
    def settings(self) -> str:
        """SQL that sets the server's own limits for the session."""
        return "; ".join(
            f"SET {name} = {_milliseconds(seconds)}"
            for name, seconds in (
                ("statement_timeout", self.statement_seconds),
                ("lock_timeout", self.lock_seconds),
                ("idle_in_transaction_session_timeout", self.idle_seconds),
            )
        )

    @property
    def answer_seconds(self) -> float | None:
        """What the client itself waits for an answer."""
        return None if self.statement_seconds is None else self.statement_seconds + MARGIN_SECONDS


class Connection(psycopg.Connection[Any]):
    """A connection that gives up waiting for the server's answer."""

    #: What it waits for an answer, and goes back to when the pool takes it back.
    answer_seconds: float | None = None
    usual_answer_seconds: float | None = None
    #: When it last did, on the monotonic clock.
    answered_at = -math.inf

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait as psycopg does; without an answer in time the connection is closed."""
        try:
            answer = super().wait(
                gen, interval, self.answer_seconds if timeout is None else timeout
            )
        except _WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server did not answer in time") from None
        self.answered_at = time.monotonic()
        return answer

    @contextmanager
    def answering_within(self, seconds: float | None) -> Iterator[Self]:
        """Wait that long at most for each answer within the block."""
        before, self.answer_seconds = self.answer_seconds, seconds
        try:
            yield self
        finally:
            self.answer_seconds = before


class Door:
    """Makes the connections of one engine; closed for a moment after a failed try."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._closed_until = 0.0
        self._lock = threading.Lock()

    def connect(self, arguments: list[Any], parameters: dict[str, Any]) -> Connection:
        """Return a new connection within the limits; raise ``OperationalError`` if none comes."""
        with self._lock:
            if time.monotonic() < self._closed_until:
                raise psycopg.OperationalError("the server did not answer a moment ago")
        try:
            return self._connect(arguments, parameters)
        except psycopg.OperationalError:
            with self._lock:
                self._closed_until = time.monotonic() + CLOSED_SECONDS
            raise

    def _connect(self, arguments: list[Any], parameters: dict[str, Any]) -> Connection:
        # What the URL says of these outranks the limits.
        made = Connection.connect(*arguments, **(self._limits.parameters | parameters))
        made.answer_seconds = self._limits.connect_seconds
        with made.cursor() as cursor:
            cursor.execute(self._limits.settings)
        made.commit()
        made.answer_seconds = made.usual_answer_seconds = self._limits.answer_seconds
        return made


def ping(connection: Any) -> bool:
    """Return whether a pooled connection still answers; raise the driver's error if it does not.

    One that did a moment ago is taken to: asking would cost a busy process a round trip each time.
    """
    if time.monotonic() - connection.answered_at < FRESH_SECONDS:
        return True
    before = connection.autocommit
    with connection.answering_within(PING_SECONDS):
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        finally:
            if not connection.closed:
                connection.autocommit = before
    return True


def _milliseconds(seconds: float | None) -> int:
    # For PostgreSQL 0 is no limit at all.
    return 0 if seconds is None else max(1, round(seconds * 1000))
