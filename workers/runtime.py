"""What a worker thread works with: database, store, compute process, name, stop sign."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models_store import Store, errors
from service import broker, tracing
from service.ledger.batches import execution, leases
from service.ledger.database import db
from service.ledger.database.connections import Limits
from service.ledger.registry import counts
from service.ledger.selection.digests import Digester
from service.messages.failures import STORE_AWAY
from service.messages.operation import Answer, Operation, Progress, Request
from service.settings import Settings
from workers import fault_points, names, stores
from workers.compute.launch import Processes
from workers.compute.process import ComputeDied, ComputeFailed, ComputeProcess, Stopping, StoreAway

#: How long the database server's time is extrapolated before it is read again.
CLOCK_SECONDS = 10.0

#: Pause after a failure of background work.
REST_SECONDS = 60.0

#: Pause between two notes of how far a computation is.
NOTE_SECONDS = 5.0

#: After this long without a failure of the bucket, its next failure counts as the first.
STORE_CALM_SECONDS = 300.0


def processes(settings: Settings, lane: str) -> Processes:
    """Return how many processes compute each step of a lane together."""
    address = settings.compute_address
    if address is not None:
        host, port = address
        # Each lane that computes has processes of its own, which meet at a port of their own.
        address = host, port + (lane == broker.TRAININGS)
    return Processes(
        per_node=settings.compute_processes, nodes=settings.compute_nodes, endpoint=address
    )


@dataclass
class Runtime:
    """One lane's resources; jobs take it first, as ledger functions take a session."""

    settings: Settings
    engine: Engine
    compute: ComputeProcess
    owner: str
    stop: threading.Event = field(default_factory=threading.Event)
    stopped_at: float | None = None
    #: What this worker counts; the lanes of one process share it.
    counter: counts.Counter = field(default_factory=counts.Counter)
    #: When it last used the database or checked on a computation (monotonic seconds).
    moved_at: float = field(default_factory=time.monotonic)
    #: Work that failed here, and when it may be tried again (monotonic seconds).
    _rests: dict[str, float] = field(default_factory=dict)
    #: Whether the store's bucket failed when it was last tried; how often in a row; and when it may
    #: be tried again (monotonic seconds).
    _store_away: bool = False
    _store_misses: int = 0
    _store_until: float = 0.0
    #: The database server's time, and when it was read (monotonic seconds).
    _clock: tuple[datetime, float] | None = None

    @classmethod
    def make(
        cls,
        settings: Settings,
        *,
        engine: Engine | None = None,
        stop: threading.Event | None = None,
        counter: counts.Counter | None = None,
        lane: str = broker.DELETIONS,
    ) -> Runtime:
        """Return a runtime with its own compute process, which starts when first used."""
        return cls(
            settings=settings,
            engine=engine or db.engine(settings.database, limits=Limits.of_work(settings)),
            compute=ComputeProcess(
                device=settings.device,
                threads=settings.threads,
                log_format=settings.log_format,
                processes=processes(settings, lane),
            ),
            owner=names.new(),
            stop=stop or threading.Event(),
            counter=counter or counts.Counter(),
        )

    @cached_property
    def store(self) -> Store:
        """Return the store, with row keys from the ledger."""
        return stores.open_for(self.settings, self.engine, self.now)

    @property
    def actor(self) -> str:
        """Return the name of this worker in the audit chain."""
        return f"worker:{self.owner}"

    @property
    def digester(self) -> Digester:
        """Return the digester with the settings' keys."""
        return Digester.from_settings(self.settings)

    @property
    def retry(self) -> execution.Retry:
        """Return the settings' limits of a batch's attempts."""
        return execution.Retry(self.settings.max_attempts, self.settings.backoff_seconds)

    @property
    def sessions(self) -> sessionmaker[Session]:
        """Return the factory of this runtime's sessions."""
        return db.session_factory(self.engine)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session; its transaction commits at the end of the block, or rolls back."""
        self.moved_at = time.monotonic()
        with self.sessions() as session, session.begin():
            yield session

    def now(self) -> datetime:
        """Return the database server's time, so that all workers agree; on SQLite local time.

        Read every few seconds and extrapolated by the monotonic clock: a worker whose own clock is
        wrong or jumps neither keeps a lease too long nor purges anything too soon.
        """
        if self.engine.dialect.name != "postgresql":
            return db.now() + fault_points.clock_offset()
        if self._clock is None or time.monotonic() - self._clock[1] > CLOCK_SECONDS:
            with self.engine.connect() as connection:
                answered = connection.execute(select(func.clock_timestamp())).scalar_one()
            self._clock = answered, time.monotonic()
        at, then = self._clock
        return at + timedelta(seconds=time.monotonic() - then)

    @contextmanager
    def lease(self, key: str) -> Iterator[leases.Held | None]:
        """Hold a lease for the block; None when another worker holds it."""
        with self.session() as session:
            held = self.acquire(session, key)
        if held is None:
            yield None
            return
        with self.giving_back(held):
            yield held

    def acquire(self, session: Session, key: str) -> leases.Held | None:
        """Take a lease in the session's transaction; None when another worker holds it."""
        return leases.acquire(
            session,
            key,
            owner=self.owner,
            seconds=self.settings.lease_seconds,
            now=self.now(),
        )

    @contextmanager
    def giving_back(self, held: leases.Held) -> Iterator[None]:
        """Release a lease at the end of the block."""
        try:
            yield
        finally:
            with self.session() as session:
                leases.release(session, held, now=self.now())

    def rest(self, what: str) -> None:
        """Do not retry failed background work for ``REST_SECONDS``."""
        self._rests[what] = time.monotonic() + REST_SECONDS

    def resting(self, what: str) -> bool:
        """Return whether it may not be retried yet."""
        return time.monotonic() < self._rests.get(what, 0.0)

    def ask(
        self,
        operation: Operation[Request, Answer, Progress],
        request: Request,
        *,
        held: leases.Held,
        timeout_seconds: float,
        progress: Callable[[Progress], None] = lambda _seen: None,
        watch: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Have the compute process run an operation while the lease is renewed.

        What is computed, and how far it is, is noted with the lease if it takes longer than a look.

        ``watch`` is called about every half second; an exception from it or from ``progress`` ends
        the computation.
        ``LeaseLost``: another worker took over; ``Stopping``: this worker must stop and the grace
        period is over. Either way the computation was killed. ``StoreAway``: the store cannot be
        read or written; nothing else is done before it can.
        """
        renew_every = self.settings.lease_seconds / 3
        renewed = time.monotonic()
        outcome = "ended"  # by this worker: it stops, or its lease is lost
        noting = _Noting(self, held, operation.name)

        def seen(told: Progress) -> None:
            noting.seen(told)
            progress(told)

        def look() -> None:
            nonlocal renewed
            self.moved_at = time.monotonic()
            self.heed_stop()
            watch()
            if time.monotonic() - renewed >= renew_every:
                with self.session() as session:
                    leases.renew(session, held, seconds=self.settings.lease_seconds, now=self.now())
                renewed = time.monotonic()
            noting.look()

        try:
            with tracing.span(f"compute {operation.name}"):
                answer = self.compute.call(
                    operation,
                    request,
                    timeout_seconds=timeout_seconds,
                    watch=look,
                    watch_seconds=min(0.5, renew_every),
                    progress=seen,
                )
                tracing.phases(getattr(answer, "timings", {}))
                outcome = "answered"
                return answer
        except ComputeFailed as failed:
            outcome = failed.kind.value
            if failed.kind in STORE_AWAY:
                raise self.store_away(failed.detail) from failed
            raise
        except ComputeDied:
            outcome = "died"
            raise
        finally:
            self.counter.add(counts.CALLS, operation.name, outcome)

    def store_away(self, why: str) -> StoreAway:
        """Note that the store's bucket cannot be used; return the error that says so."""
        now = time.monotonic()
        if now - self._store_until > STORE_CALM_SECONDS:
            self._store_misses = 0
        self._store_misses += 1
        pause = self.settings.backoff_seconds * 2 ** min(self._store_misses - 1, 10)
        self._store_away, self._store_until = True, now + min(pause, REST_SECONDS)
        return StoreAway(why)

    def store_answers(self) -> bool:
        """Return whether the store can be used.

        After a failure it is probed, at intervals that grow while the failure lasts.
        """
        if not self._store_away:
            return True
        if time.monotonic() < self._store_until:
            return False
        try:
            self.store.check()
        except errors.BucketUnavailable as error:
            self.store_away(str(error))
            return False
        self._store_away = False
        return True

    def heed_stop(self) -> None:
        """Raise ``Stopping`` once a stop was asked for and the grace period is over."""
        if not self.stop.is_set():
            return
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
        if time.monotonic() - self.stopped_at >= self.settings.grace_seconds:
            raise Stopping("the worker is stopping; the work was handed back")

    def close(self) -> None:
        """End the compute process and the database connections."""
        self.compute.kill()
        self.engine.dispose()


class _Noting:
    """Notes with a lease, now and then, what is computed under it and how far that is."""

    def __init__(self, runtime: Runtime, held: leases.Held, doing: str) -> None:
        self._runtime, self._held, self._doing = runtime, held, doing
        self._fraction: float | None = None
        self._noted: tuple[float | None] | None = None
        self._next = 0.0

    def seen(self, told: object) -> None:
        """Remember how far the computation says that it is."""
        self._fraction = getattr(told, "fraction", self._fraction)

    def look(self) -> None:
        """Note it, unless that was done a moment ago or nothing has changed."""
        if time.monotonic() < self._next or self._noted == (self._fraction,):
            return
        # Only people read it: a database that does not answer is no reason to end the computation.
        with suppress(SQLAlchemyError), self._runtime.session() as session:
            leases.note(session, self._held, doing=self._doing, progress=self._fraction)
            self._noted = (self._fraction,)
        self._next = time.monotonic() + NOTE_SECONDS
