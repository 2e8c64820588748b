"""Leases: the right of one worker to work on something until a time.

A lease expires when its holder stops renewing it. Each new holder gets a higher *fence*; a former
holder finds its fence outdated when it tries to write, so a slow worker can never undo or repeat
the work of its successor, whatever the clocks say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database import inserts, taken
from service.ledger.database.tables import Lease


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
    until = now + timedelta(seconds=seconds)
    statement = inserts.upsert(session, Lease).values(key=key, owner=owner, until=until, fence=1)
    taking = statement.on_conflict_do_update(
        index_elements=[Lease.key],
        set_={"owner": owner, "until": until, "fence": Lease.fence + 1},
        where=or_(Lease.owner.is_(None), Lease.until <= now),
    ).returning(Lease.fence)
    fence = session.execute(taking).scalar_one_or_none()
    if fence is None:
        return None
    held = Held(key, owner, fence)
    taken.keep(session, _key(key), held)
    return held


def is_free(session: Session, key: str, *, now: datetime) -> bool:
    """Return whether the lease could be taken now, without taking it."""
    taken_until = select(Lease.until).where(Lease.key == key, Lease.owner.is_not(None))
    until = session.scalar(taken_until)
    return until is None or until <= now


def renew(session: Session, held: Held, *, seconds: float, now: datetime) -> None:
    """Renew the lease; raise ``LeaseLost`` when it has a new holder."""
    _change(session, held, until=now + timedelta(seconds=seconds))


def hold(session: Session, held: Held) -> None:
    """Lock the lease for the rest of the transaction; raise ``LeaseLost`` if it has a new holder.

    Call it first in every transaction that writes a result, so that two holders cannot both write.
    """
    if taken.find(session, _key(held.key)) != held:
        _change(session, held, owner=held.owner)


def release(session: Session, held: Held, *, now: datetime) -> None:
    """Release the lease; do nothing if another worker has it."""
    taken.drop(session, _key(held.key))
    session.execute(
        update(Lease)
        .where(Lease.key == held.key, Lease.fence == held.fence)
        .values(owner=None, until=now)
    )


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
    changed = session.execute(
        update(Lease)
        .where(Lease.key == held.key, Lease.fence == held.fence, Lease.owner == held.owner)
        .values(**values)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]  # the stubs type it as a plain Result
        raise LeaseLost(f"the lease {held.key} has a new holder; drop the work and look again")
    taken.keep(session, _key(held.key), held)


def _key(key: str) -> taken.Key:
    return ("lease", key)
