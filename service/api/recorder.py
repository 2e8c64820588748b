"""Threads that record deletion requests: requests that arrive together share a transaction.

A commit waits for the disk and for the lock of the audit chain. Requests that arrive during one
commit are recorded together by the next, so the rate does not depend on how long a commit takes,
and each is still answered only after its own commit. On PostgreSQL two threads take turns: while
one commits a group, the other prepares the next.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service import tracing
from service.api import problems
from service.errors import ServiceError, Unavailable
from service.ledger.database import db, transactions
from service.ledger.requests import intake, lookup, outlook, page
from service.ledger.selection.digests import Digester
from service.wake import Wake

#: Largest number of submissions taken together, unless a single call has more. They are one
#: transaction, or as many as ``page.ROWS_AT_ONCE`` requires.
GROUP = 128
MAX_WAITING = 4096
#: Largest age of the count of open requests, in seconds, while the queue is under half full; above.
RECOUNT_SECONDS = (10.0, 1.0)

#: Largest age of the estimate of when a request will be done.
OUTLOOK_SECONDS = 1.0

#: Threads by database: SQLite has one writer at a time.
THREADS = {"postgresql": 2, "sqlite": 1}

#: How long to look for an unknown outcome; the pause between two looks.
PATIENCE_SECONDS = 10.0
PAUSE_SECONDS = 0.25

Outcome = page.Receipt | ServiceError


class OutcomeUnknown(Unavailable):
    """The database stopped answering in the middle of a commit and has not answered since."""

    code = "outcome-unknown"
    title = "It is not known whether this was recorded"


@dataclass(frozen=True, eq=False)
class _Call:
    submissions: Sequence[page.Submission]
    loop: asyncio.AbstractEventLoop
    answered: asyncio.Future[list[Outcome]]


def _in_doubt(ids: Sequence[str]) -> OutcomeUnknown:
    return OutcomeUnknown(
        "the database stopped answering while this was recorded, so that it may or may not "
        "have been; once GET /v1/deletion-requests/{id} answers for the ids in "
        "`deletion_requests`, those that it does not know were not recorded: ask for them "
        "again. With an Idempotency-Key, repeat the call as it was",
        deletion_requests=list(ids),
    )


class _InDoubt(Exception):
    """It is unknown whether the remaining submissions were recorded."""


@dataclass(eq=False)
class _Group:
    """Progress of a thread with the calls that it took."""

    #: Held by the one thread that waits for calls or prepares them.
    turn: threading.Lock
    #: Outcomes of committed transactions, by the submissions' ids.
    known: dict[str, Outcome] = field(default_factory=dict)
    has_turn: bool = True
    #: Whether a COMMIT may have been sent and not been answered.
    committing: bool = False

    def left(self, submissions: Iterable[page.Submission]) -> list[page.Submission]:
        """Return the submissions that have no outcome yet."""
        return [one for one in submissions if one.id not in self.known]

    def end_turn(self) -> None:
        """Let the other thread take the next calls; a second call does nothing."""
        if self.has_turn:
            self.has_turn = False
            self.turn.release()


class _Capacity:
    """How many more open requests the queue accepts; the database counts them now and then."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0
        #: Prepared by another thread and not known to be recorded.
        self._pending = 0
        self._counted_at = -max(RECOUNT_SECONDS)
        self._lock = threading.Lock()

    def left(self, session: Session) -> int:
        """Return how many more requests the queue accepts now."""
        # This process' own requests are counted at once; only other processes' may be missing.
        nearly_full = 2 * self._open > self._most
        if time.monotonic() - self._counted_at > RECOUNT_SECONDS[nearly_full]:
            with self._lock:
                self._open = lookup.count_open(session, up_to=self._most)
                self._counted_at = time.monotonic()
        with self._lock:
            return max(0, self._most - self._open - self._pending)

    def add(self, count: int) -> None:
        """Count requests that were recorded."""
        with self._lock:
            self._open += count

    @contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Reserve room for requests while they are committed; count them if that succeeds."""
        with self._lock:
            self._pending += count
        try:
            yield
        except BaseException:
            with self._lock:
                self._pending -= count
            raise
        with self._lock:
            self._pending -= count
            self._open += count


class Recorder:
    """Hands submissions to its threads and waits, without blocking the event loop."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        digester: Digester,
        wake: Wake,
        *,
        max_queue: int,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._sessions = sessions
        self._digester = digester
        self._wake = wake
        self._engine: Engine = sessions.kw["bind"]
        self._outlooks = outlook.Outlooks(OUTLOOK_SECONDS)
        self._capacity = _Capacity(max_queue)
        self._patience_seconds = patience_seconds
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._turn = threading.Lock()
        self._threads: list[threading.Thread] = []

    async def record(self, submissions: Sequence[page.Submission]) -> list[Outcome]:
        """Return a receipt or refusal for each submission, once they are committed."""
        with tracing.span("record", attributes={"unlearn.requests": len(submissions)}):
            return await self._recorded(submissions)

    async def _recorded(self, submissions: Sequence[page.Submission]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        call = _Call(submissions, loop, loop.create_future())
        with self._changed:
            if self._closed or len(self._calls) >= MAX_WAITING:
                raise Unavailable("the service is busy or stopping; try again")
            self._calls.append(call)
        # Notify after all requests that have arrived were read: they then share a transaction, and
        # neither they nor the threads compete for the interpreter lock.
        loop.call_soon(self._notify)
        return await call.answered

    def close(self) -> None:
        """Record what is queued, then stop."""
        with self._changed:
            self._closed = True
        self._notify()
        for thread in self._threads:
            thread.join(timeout=20.0)

    def _notify(self) -> None:
        with self._changed:
            if self._calls and not self._threads:
                self._start()
            self._changed.notify()

    def _start(self) -> None:
        for _ in range(THREADS[self._engine.dialect.name]):
            thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while True:
            self._turn.acquire()
            group = _Group(self._turn)
            try:
                calls = self._next()
                if not calls:
                    return
                self._answer(calls, group)
            finally:
                group.end_turn()

    def _next(self) -> list[_Call]:
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._closed)
            taken: list[_Call] = []
            size = 0
            while self._calls and (not taken or size + len(self._calls[0].submissions) <= GROUP):
                taken.append(self._calls.popleft())
                size += len(taken[-1].submissions)
            return taken

    def _answer(self, calls: Sequence[_Call], group: _Group) -> None:
        try:
            self._record([one for call in calls for one in call.submissions], group)
        except Exception as error:  # each caller must get an answer, whatever the error
            if len(calls) > 1 and not _concerns_all(error):
                for call in calls:  # one call's error must not fail the others
                    self._answer([call], group)
            else:
                for call in calls:
                    _settle([call], _told(call, group, error))
        else:
            _settle(calls, [[group.known[one.id] for one in call.submissions] for call in calls])

    def _record(self, submissions: Sequence[page.Submission], group: _Group) -> None:
        """Record each submission exactly once, even if the answer to a commit is lost.

        What may have been committed is looked up before the rest is written again under the same
        ids, and again until the database answers or the callers have waited long enough.
        """
        end = time.monotonic() + self._patience_seconds
        in_doubt, attempts = False, 0
        while True:
            attempts += 1
            try:
                if attempts > 1:
                    group.known |= self._look_up(group.left(submissions), group)
                while left := group.left(submissions):
                    group.known |= self._write(left, group)
                return
            except DBAPIError as error:
                in_doubt |= group.committing and transactions.is_lost(error)
                if in_doubt and time.monotonic() > end:
                    raise _InDoubt from error
                if not in_doubt and (attempts > 1 or not _worth_repeating(error)):
                    raise
            if in_doubt:
                time.sleep(PAUSE_SECONDS)

    def _write(self, submissions: Sequence[page.Submission], group: _Group) -> dict[str, Outcome]:
        """Record the submissions that fit in one transaction; return their outcomes by id."""
        group.committing = False
        with self._engine.connect() as connection, self._sessions(bind=connection) as session:
            gathered = intake.gather(
                session,
                submissions,
                digester=self._digester,
                now=db.now(),
                room=self._capacity.left(session),
                outlooks=self._outlooks,
            )
            outcomes = gathered.outcomes
            new = sum(isinstance(one, page.Receipt) and not one.repeated for one in outcomes)
            with self._capacity.reserved(new):
                group.end_turn()
                group.committing = True
                with db.together(session):
                    gathered.write()
                    session.commit()
        group.committing = False
        self._wake_for(new)
        taken = submissions[: len(outcomes)]
        return {one.id: outcome for one, outcome in zip(taken, outcomes, strict=True)}

    def _look_up(
        self, submissions: Sequence[page.Submission], group: _Group
    ) -> Mapping[str, Outcome]:
        """Look up submissions that an earlier attempt recorded, on a connection of its own."""
        group.committing = False
        with self._sessions() as session:
            found = intake.recorded(db.read_only(session), submissions)
        self._capacity.add(len(found))
        self._wake_for(len(found))
        return found

    def _wake_for(self, count: int) -> None:
        if count:
            self._wake.deletions()


def _worth_repeating(error: DBAPIError) -> bool:
    # Another process may have recorded the same idempotency key at the same moment: the second try
    # finds its answer.
    return isinstance(error, IntegrityError) or transactions.is_victim(error)


def _concerns_all(error: Exception) -> bool:
    if isinstance(error, DBAPIError) and not transactions.is_victim(error):
        # The database is unreachable or a lock timed out: the next call would wait as well.
        return isinstance(error, OperationalError) or transactions.is_lost(error)
    # In doubt: tried again call by call, the same requests would seem not to be recorded.
    return isinstance(error, ServiceError | _InDoubt)


def _told(call: _Call, group: _Group, error: Exception) -> list[list[Outcome]] | Exception:
    """Return what a call gets after an error: outcomes if all is committed, else the error."""
    lost = [one.id for one in group.left(call.submissions)]
    if len(lost) == len(call.submissions):
        return _in_doubt(lost) if isinstance(error, _InDoubt) else error
    problem = _in_doubt(lost) if isinstance(error, _InDoubt) else problems.of(error)
    return [[group.known.get(one.id, problem) for one in call.submissions]]


def _settle(calls: Sequence[_Call], result: list[list[Outcome]] | Exception) -> None:
    """Deliver results to the event loops, with one callback per loop for the whole group."""
    by_loop: dict[asyncio.AbstractEventLoop, list[int]] = {}
    for place, call in enumerate(calls):
        by_loop.setdefault(call.loop, []).append(place)

    def deliver(places: list[int]) -> None:
        for place in places:
            future = calls[place].answered
            if future.done():  # its client disconnected
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result[place])

    for loop, places in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, places)
