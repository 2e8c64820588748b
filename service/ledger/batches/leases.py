"""Leases: the right of one worker to work on something until a time.

A lease expires when its holder stops renewing it. Each new holder gets a higher *fence*; a former
holder finds its fence outdated when it tries to write, so a slow worker can never undo or repeat
the work of its successor, whatever the clocks say. Rows are never deleted, so no fence is used
twice; after a restored backup it may be, and the holder's name, which is new in each process, tells
the two apart.

If the clock is set back, the times of leases lie too far ahead. Whoever finds such a lease shortens
it to one that begins now: a holder that lives renews it, and that of a dead one is free after its
usual time, not after the hours by which the clock was wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, not_, or_, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database import inserts, taken
from service.ledger.database.tables import Lease

#: By how much clocks may differ before a lease counts as taken by one that was set back since.
CLOCK_TOLERANCE = timedelta(minutes=1)


class LeaseLost(Conflict):
    """Another worker took over; results computed under this lease must be dropped."""

    code = "lease-lost"


@dataclass(frozen=True)
class Held:
    """A held lease: everything that a write under it needs."""

    key: str
    owner: str
    fence: int


def of_model(model_id: int) -> str:
    """Return the key of the lease held while a model's production version is changed."""
    return f"model:{model_id}"


def of_run(run_id: str) -> str:
    """Return the key of the lease under which a model is trained."""
    return f"run:{run_id}"


def of_ingest(dataset_id: int) -> str:
    """Return the key of the lease under which a dataset is ingested."""
    return f"ingest:{dataset_id}"


def acquire(
    session: Session, key: str, *, owner: str, seconds: float, now: datetime
) -> Held | None:
    """Take the lease if it is free or expired; return None while another worker holds it."""
    times = {"until": now + timedelta(seconds=seconds), "renewed_at": now}
    taken_anew = {"owner": owner, "taken_at": now, "doing": None, "progress": None, **times}
    statement = inserts.upsert(session, Lease).values(key=key, fence=1, **taken_anew)
    taking = statement.on_conflict_do_update(
        index_elements=[Lease.key],
        set_={"fence": Lease.fence + 1, **taken_anew},
        where=or_(Lease.owner.is_(None), Lease.until <= now),
    ).returning(Lease.fence)
    fence = session.execute(taking).scalar_one_or_none()
    if fence is None:
        session.execute(
            update(Lease)
            .where(Lease.key == key, _is_from_the_future(now))
            .values(**times)
            .execution_options(synchronize_session=False)
        )
        return None
    held = Held(key, owner, fence)
    taken.keep(session, _key(key), held)
    return held


def is_free(session: Session, key: str, *, now: datetime) -> bool:
    """Return whether it is worth trying to take the lease now, without taking it.

    So it is with one that ``acquire`` would shorten.
    """
    held = select(Lease.key).where(
        Lease.key == key,
        Lease.owner.is_not(None),
        Lease.until > now,
        not_(func.coalesce(_is_from_the_future(now), False)),
    )
    return session.scalar(held) is None


def renew(session: Session, held: Held, *, seconds: float, now: datetime) -> None:
    """Renew the lease; raise ``LeaseLost`` when it has a new holder."""
    _change(session, held, until=now + timedelta(seconds=seconds), renewed_at=now)


def note(session: Session, held: Held, *, doing: str, progress: float | None) -> None:
    """Note for operators what the holder computes and how far it is, 0 to 1; not an audit event.

    Nothing is noted if another worker has the lease.
    """
    done = None if progress is None else min(max(progress, 0.0), 1.0)
    session.execute(update(Lease).where(_is_held(held)).values(doing=doing, progress=done))


def hold(session: Session, held: Held) -> None:
    """Lock the lease for the rest of the transaction; raise ``LeaseLost`` if it has a new holder.

    Call it first in every transaction that writes a result, so that two holders cannot both write.
    """
    if taken.find(session, _key(held.key)) != held:
        _change(session, held, owner=held.owner)


def release(session: Session, held: Held, *, now: datetime) -> None:
    """Release the lease; do nothing if another worker has it."""
    taken.drop(session, _key(held.key))
    session.execute(update(Lease).where(_is_held(held)).values(owner=None, until=now))


def revoke(session: Session, key: str, *, now: datetime) -> None:
    """End a lease, so that its holder can write nothing more.

    The holder's computation is killed when it next renews the lease. Do nothing if the lease was
    never taken.
    """
    taken.drop(session, _key(key))
    session.execute(
        update(Lease)
        .where(Lease.key == key)
        .values(owner=None, until=now, fence=Lease.fence + 1)
        .execution_options(synchronize_session=False)
    )


def _change(session: Session, held: Held, **values: Any) -> None:
    changed = session.execute(update(Lease).where(_is_held(held)).values(**values))
    if changed.rowcount != 1:  # type: ignore[attr-defined]  # the stubs type it as a plain Result
        raise LeaseLost(f"the lease {held.key} has a new holder; drop the work and look again")
    taken.keep(session, _key(held.key), held)


def _is_held(held: Held) -> ColumnElement[bool]:
    return and_(Lease.key == held.key, Lease.fence == held.fence, Lease.owner == held.owner)


def _is_from_the_future(now: datetime) -> ColumnElement[bool]:
    """Return SQL: it was taken or renewed when the clock was ahead; NULL if it is not known."""
    return and_(Lease.renewed_at > now + CLOCK_TOLERANCE)


def _key(key: str) -> taken.Key:
    return ("lease", key)
