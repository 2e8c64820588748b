"""Checks of what requests and deletions need, within a few seconds even if a part hangs.

They have threads and a database connection of their own: those of the requests may all be waiting.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from models_store import Store, errors
from service import broker
from service.ledger.database import db, schema, storage
from service.ledger.database.connections import Limits
from service.ledger.registry import heartbeats
from service.settings import Settings

#: Time after which a part that does not answer counts as unreachable.
LOOK_SECONDS = 4.0

log = logging.getLogger("service.readiness")

Database = Literal["reachable", "unreachable", "not_migrated", "full", "read_only", "faulty"]
Broker = Literal["reachable", "unreachable"]
Worker = Literal["alive", "absent", "unknown"]
StoreState = Literal["usable", "unreachable", "refused", "unwritable"]

Found = TypeVar("Found")


@dataclass(frozen=True)
class Seen:
    """The state of each part."""

    database: Database
    broker: Broker
    #: Unknown if the database, which holds the workers' heartbeats, cannot be read or written.
    worker: Worker
    #: A bucket may be unreachable or refuse access; a directory may lack permissions.
    store: StoreState


class Checks:
    """One check of each part at a time; concurrent callers share its result."""

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        """Check what these settings name; ``engine`` is the one of the requests."""
        self._settings, self._store = settings, store
        self._disk = storage.Watch(engine)
        limits = replace(Limits.of_requests(settings), statement_seconds=2.0, lock_seconds=2.0)
        self._engine = db.engine(settings.database, pool_size=1, limits=limits)
        self._sessions = db.session_factory(self._engine)
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="readiness")
        self._lock = threading.Lock()
        self._looking: dict[str, Future[Any]] = {}

    async def look(self) -> Seen:
        """Check everything at once."""
        of_the_ledger, reached, store = await asyncio.gather(
            self._answer(self._look_at_the_database),
            self._answer(self._look_at_the_broker),
            self._answer(self._look_at_the_store),
        )
        database, worker = of_the_ledger or ("unreachable", "unknown")
        return Seen(database, reached or "unreachable", worker, store or "unreachable")

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    async def _answer(self, look: Callable[[], Found]) -> Found | None:
        """Return the result of a check; None if it takes too long."""
        with self._lock:
            running = self._looking.get(look.__name__)
            if running is None or running.done():
                running = self._looking[look.__name__] = self._threads.submit(look)
        try:
            return await asyncio.wait_for(
                asyncio.shield(asyncio.wrap_future(running)), LOOK_SECONDS
            )
        except TimeoutError:
            return None

    def _look_at_the_database(self) -> tuple[Database, Worker]:
        try:
            with self._sessions() as session:
                if not schema.is_current(db.read_only(session)):
                    return "not_migrated", "unknown"
                fault = self._disk.seen()
                if fault is not None:  # workers cannot write their heartbeats
                    return fault.value, "unknown"
                beat_seconds = self._settings.heartbeat_seconds
                alive = heartbeats.living(session, beat_seconds=beat_seconds)
                return "reachable", "alive" if alive else "absent"
        except SQLAlchemyError as error:
            fault = storage.fault(error)
            said = "does not answer" if fault is None else f"has a disk that is {fault.value}"
            log.warning("the database %s: %s", said, type(error).__name__)
            return "unreachable" if fault is None else fault.value, "unknown"

    def _look_at_the_store(self) -> StoreState:
        try:
            self._store.check()
        except errors.Unavailable as error:
            log.warning("the store cannot be used: %s", error)
            if isinstance(error, errors.Unreachable):
                return "unreachable"
            return "refused" if isinstance(error, errors.Refused) else "unwritable"
        return "usable"

    def _look_at_the_broker(self) -> Broker:
        try:
            return "reachable" if broker.answers(self._settings) else "unreachable"
        except Exception as error:  # the broker's library may raise anything
            log.warning("the broker does not answer: %s", type(error).__name__)
            return "unreachable"
