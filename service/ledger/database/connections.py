"""Connections to PostgreSQL with a time limit on every wait.

A network can go silent: it accepts every byte and returns neither an answer nor an error. The
server cannot end a statement whose connection is lost, nor can TCP if a middlebox still
acknowledges. So each side has limits of its own: the server for statements, locks and idle
transactions; TCP for unacknowledged packets; and the client for every answer.
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

#: How much longer than the server's own limit of a statement a client waits for the answer.
MARGIN_SECONDS = 1.0

#: Time limit of the check that a pooled connection still answers.
PING_SECONDS = 2.0

#: A connection that answered this recently is not checked.
FRESH_SECONDS = 1.0

#: Time after a failed attempt during which further attempts fail at once, so that requests do not
#: wait for an unreachable server one after the other.
CLOSED_SECONDS = 0.5

#: Number of probes of an idle connection, and seconds between them, before TCP gives it up.
_PROBES, _PROBE_SECONDS = 3, 2


@dataclass(frozen=True)
class Limits:
    """Time limits in seconds; None: no limit."""

    connect_seconds: float = 5.0
    statement_seconds: float | None = 60.0
    lock_seconds: float | None = 60.0
    #: After which PostgreSQL ends a transaction whose client is idle.
    idle_seconds: float = 60.0
    #: After which a silent connection is probed; unacknowledged bytes then end it.
    keepalive_seconds: float = 10.0
    #: Wait for a pooled connection when all are in use.
    pool_seconds: float = 15.0

    @classmethod
    def of_requests(cls, settings: Settings) -> Self:
        """Return the limits of a request: together less than 15 seconds by default."""
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
        """Return the limits of a worker."""
        seconds = settings.database_work_seconds
        return cls(
            connect_seconds=settings.database_connect_seconds,
            statement_seconds=seconds,
            lock_seconds=seconds,
            keepalive_seconds=settings.database_keepalive_seconds,
        )

    @classmethod
    def of_bulk(cls, settings: Settings) -> Self:
        """Return the limits of a command that reads or moves whole tables."""
        seconds = settings.database_bulk_seconds
        return replace(cls.of_work(settings), statement_seconds=seconds, lock_seconds=seconds)

    @property
    def parameters(self) -> dict[str, int]:
        """Return libpq's parameters for a new connection."""
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
        """Return SQL that sets the server's own limits for the session."""
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
        """Return how long the client itself waits for an answer."""
        return None if self.statement_seconds is None else self.statement_seconds + MARGIN_SECONDS


class Connection(psycopg.Connection[Any]):
    """A connection that waits a limited time for the server's answer."""

    #: Limit of a wait for an answer; restored when the connection returns to the pool.
    answer_seconds: float | None = None
    usual_answer_seconds: float | None = None
    #: When the server last answered, on the monotonic clock.
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
        """Limit each wait for an answer within the block to ``seconds``."""
        before, self.answer_seconds = self.answer_seconds, seconds
        try:
            yield self
        finally:
            self.answer_seconds = before


class Connector:
    """Makes the connections of one engine; refuses for a moment after a failed attempt."""

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
        # Parameters in the URL take precedence over the limits.
        made = Connection.connect(*arguments, **(self._limits.parameters | parameters))
        made.answer_seconds = self._limits.connect_seconds
        with made.cursor() as cursor:
            cursor.execute(self._limits.settings)
        made.commit()
        made.answer_seconds = made.usual_answer_seconds = self._limits.answer_seconds
        return made


def ping(connection: Any) -> bool:
    """Return whether a pooled connection still answers; raise the driver's error if it does not.

    One that answered a moment ago is assumed to: checking would cost a round trip each time.
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
    # For PostgreSQL 0 means no limit.
    return 0 if seconds is None else max(1, round(seconds * 1000))
