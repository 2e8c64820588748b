"""Heartbeats: which worker processes are live.

A row says nothing about leases or work in progress: a worker whose heartbeats ended may still hold
a lease until it expires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, delete, func, select, update
from sqlalchemy.orm import Session

from service.ledger.audit import canonical
from service.ledger.database import db, inserts
from service.ledger.database.tables import EndedWorkers, Worker
from service.ledger.registry import counts as counting
from service.ledger.registry.counts import Counts

#: Number of missed heartbeats after which a worker counts as dead.
MISSED_BEATS = 4

#: How long the row of a dead worker is kept, for operators to see.
KEPT = timedelta(hours=1)


def beat(
    session: Session,
    name: str,
    *,
    started_at: datetime,
    busy_since: Mapping[str, datetime | None],
    code_version: str,
    counts: Counts | None = None,
    told: Counts | None = None,
    perhaps_new: bool = False,
) -> bool:
    """Record a heartbeat; remove rows of workers dead for an hour. Return whether it has a new row.

    ``counts`` are the worker's since its row began, and ``told`` those of its last heartbeat. If
    its row was removed in between, ``told`` is among the counts of ended workers, and the new row
    has only what was counted since. ``perhaps_new``: a heartbeat after that one began a new row,
    and whether it was committed is not known; if there is a row, it was.
    """
    now = server_time(session)
    values = {
        "started_at": started_at,
        "seen_at": now,
        "busy_since": canonical.plain(dict(busy_since)),
        "code_version": code_version,
    }
    fresh = counting.since(counts or {}, told or {})
    own = fresh if perhaps_new else dict(counts or {})
    mine = update(Worker).where(Worker.name == name).values(**values, counts=own)
    written: CursorResult[Any] = session.connection().execute(mine)
    if not written.rowcount:
        session.execute(inserts.upsert(session, Worker).values(name=name, **values, counts=fresh))
    _end(session, Worker.seen_at < now - KEPT)
    return perhaps_new or not written.rowcount


def leave(
    session: Session, name: str, *, counts: Counts | None = None, told: Counts | None = None
) -> None:
    """Remove the row of a worker that shut down cleanly; its counts are kept (see ``beat``)."""
    found = session.scalars(delete(Worker).where(Worker.name == name).returning(Worker.name)).all()
    last = counts or {}
    _keep(session, [last if found else counting.since(last, told or {})])


def _end(session: Session, which: ColumnElement[bool]) -> None:
    _keep(session, session.scalars(delete(Worker).where(which).returning(Worker.counts)).all())


def _keep(session: Session, ended: Sequence[Counts | None]) -> None:
    """Add the counts of workers whose row was removed to those of ended workers."""
    if not any(ended):
        return
    first = inserts.upsert(session, EndedWorkers).values(id=1, counts={})
    session.execute(first.on_conflict_do_nothing())
    row = session.scalars(
        select(EndedWorkers).with_for_update().execution_options(populate_existing=True)
    ).one()
    row.counts = counting.total([row.counts, *ended])


def counted(session: Session) -> dict[str, float]:
    """Return what all workers have counted, those that have ended included, in one statement.

    A worker's counts move to those of ended workers in the transaction that removes its row, so a
    sum never falls.
    """
    kept = select(Worker.counts).union_all(select(EndedWorkers.counts))
    return counting.total(session.execute(kept).scalars())


def living(session: Session, *, beat_seconds: float) -> Sequence[Worker]:
    """Return the workers seen within the last few heartbeats, by name.

    One seen later than now was seen before the clock was set back: its next heartbeat decides.
    """
    now, few = server_time(session), timedelta(seconds=MISSED_BEATS * beat_seconds)
    wanted = select(Worker).where(Worker.seen_at.between(now - few, now + few))
    return session.scalars(wanted.order_by(Worker.name)).all()


def server_time(session: Session) -> datetime:
    """Return the database server's time, which all processes share; on SQLite local time."""
    if session.get_bind().dialect.name != "postgresql":
        return db.now()
    answered: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return answered
