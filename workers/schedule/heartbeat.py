"""A worker's heartbeat, written by a thread of its own.

A busy lane does not delay it. There is none while the database is unreachable, nor when all lanes
of the worker hang.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from importlib import metadata

from sqlalchemy.exc import SQLAlchemyError

from service.ledger.database import db
from service.ledger.database.connections import Limits
from service.ledger.registry import counts, heartbeats
from service.settings import Settings

log = logging.getLogger(__name__)


class Heartbeat:
    """Writes the worker's row every ``heartbeat_seconds`` until it is closed."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        busy_since: Callable[[], Mapping[str, datetime | None]],
        goes_on: Callable[[], bool] = lambda: True,
        counter: counts.Counter | None = None,
    ) -> None:
        self._name = name
        self._seconds = settings.heartbeat_seconds
        self._busy_since = busy_since
        self._goes_on = goes_on
        self._counter = counter or counts.Counter()
        #: What was counted before the worker's row began, and since then up to the last heartbeat.
        self._before: counts.Counts = {}
        self._told: counts.Counts = {}
        #: Whether a heartbeat may have begun a new row, and nobody knows if it was committed.
        self._perhaps_new = False
        self._started_at = db.now()
        # A connection of its own, with short time limits: the lanes' may all be waiting.
        self._engine = db.engine(
            settings.database, pool_size=1, limits=Limits.of_requests(settings)
        )
        self._sessions = db.session_factory(self._engine)
        self._closed = threading.Event()
        self._missed = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first heartbeat and start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and remove the worker's row."""
        self._closed.set()
        started = self._thread.ident is not None
        if started:
            self._thread.join(timeout=self._seconds)
        # Otherwise the row expires by itself: stopping must not wait for a database.
        if started and not self._thread.is_alive() and not self._missed:
            with suppress(SQLAlchemyError), self._sessions.begin() as session:
                now = counts.since(self._counter.now(), self._before)
                heartbeats.leave(session, self._name, counts=now, told=self._told)
        self._engine.dispose()

    def _run(self) -> None:
        self._beat()
        while not self._closed.wait(self._seconds):
            self._beat()

    def _beat(self) -> None:
        if not self._goes_on():
            self._miss("no heartbeat: every lane hangs; restart this worker")
            return
        now = counts.since(self._counter.now(), self._before)
        is_new = self._perhaps_new
        try:
            with self._sessions.begin() as session:
                is_new = heartbeats.beat(
                    session,
                    self._name,
                    started_at=self._started_at,
                    busy_since=self._busy_since(),
                    code_version=metadata.version("unlearn"),
                    counts=now,
                    told=self._told,
                    perhaps_new=self._perhaps_new,
                )
        except SQLAlchemyError as error:
            self._perhaps_new = is_new
            self._miss(f"no heartbeat: the database does not answer ({type(error).__name__})")
        else:
            self._missed = self._perhaps_new = False
            if is_new:
                self._before = counts.total([self._before, self._told])
                now = counts.since(now, self._told)
            self._told = now

    def _miss(self, why: str) -> None:
        if not self._missed:
            log.warning("%s", why)
        self._missed = True
