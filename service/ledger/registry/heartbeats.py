"""Heartbeats: which worker processes are live.

A row says nothing about leases or work in progress: a worker whose heartbeats ended may still hold
a lease until it expires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical
from service.ledger.database import db, inserts
from service.ledger.database.tables import Worker

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
) -> None:
    """Record a heartbeat; remove rows of workers dead for an hour."""
    now = server_time(session)
    values = {
        "seen_at": now,
        "busy_since": canonical.plain(dict(busy_since)),
        "code_version": code_version,
    }
    statement = inserts.upsert(session, Worker).values(name=name, started_at=started_at, **values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Worker.name], set_={"started_at": started_at, **values}
        )
    )
    session.execute(delete(Worker).where(Worker.seen_at < now - KEPT))


def leave(session: Session, name: str) -> None:
    """Remove the row of a worker that shut down cleanly."""
    session.execute(delete(Worker).where(Worker.name == name))


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
