"""Data keys of the shards in which a bucket keeps rows; destroying a key erases what it encrypted.

``array`` is the key of a dataset's rows, or a temporary name while they are being written.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from service.ledger.database.tables import DataKey

#: Prefix of the names of arrays that are being written; no key of an array begins with it.
UNFINISHED = "new-"


def of(session: Session, array: str) -> Sequence[DataKey]:
    """Return the shards of an array in the order of its rows."""
    wanted = select(DataKey).where(DataKey.array == array).order_by(DataKey.number)
    return session.scalars(wanted).all()


def add(
    session: Session,
    array: str,
    number: int,
    *,
    digest: str,
    rows: int,
    secret: bytes,
    now: datetime,
) -> None:
    """Store the key of a new shard."""
    session.add(
        DataKey(array=array, number=number, digest=digest, rows=rows, secret=secret, created_at=now)
    )
    session.flush()


def rename(session: Session, array: str, to: str) -> bool:
    """Name a written array by its key; return False, unchanged, if that key has shards already."""
    if session.scalar(select(DataKey.number).where(DataKey.array == to).limit(1)) is not None:
        return False
    session.execute(update(DataKey).where(DataKey.array == array).values(array=to))
    return True


def replace(
    session: Session,
    array: str,
    number: int,
    *,
    old: str,
    digest: str,
    secret: bytes,
    now: datetime,
) -> bool:
    """Replace the shard ``old`` by its rewritten form; the old key is overwritten.

    Return False, unchanged, if the shard has been replaced meanwhile.
    """
    changed = session.execute(
        update(DataKey)
        .where(DataKey.array == array, DataKey.number == number, DataKey.digest == old)
        .values(digest=digest, secret=secret, created_at=now)
        .returning(DataKey.number)
    )
    return changed.first() is not None


def destroy(session: Session, array: str) -> Sequence[str]:
    """Destroy the keys of an array; return the digests of its shards."""
    gone = session.execute(delete(DataKey).where(DataKey.array == array).returning(DataKey.digest))
    return list(gone.scalars())


def unfinished(session: Session, *, before: datetime) -> Sequence[str]:
    """Return the arrays that are being written and got no shard since ``before``."""
    return session.scalars(
        select(DataKey.array)
        .where(DataKey.array.startswith(UNFINISHED))
        .group_by(DataKey.array)
        .having(func.max(DataKey.created_at) < before)
    ).all()


def digests(session: Session) -> set[str]:
    """Return the digests of all shards that have a key."""
    return set(session.scalars(select(DataKey.digest)))
