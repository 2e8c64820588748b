"""A cache of what a session's transaction has locked or made, so that nothing is read twice.

Cached objects stay valid until the transaction ends, because nobody else can change them: a row
under a lock that excludes writers, a row that no other transaction sees yet, a held lease. The
cache is cleared at the end of the transaction, and when a savepoint is rolled back, which releases
the locks that were taken within it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.orm import Session, SessionTransaction

_TAKEN = "ledger_taken"

Key = tuple[Hashable, ...]


def keep(session: Session, key: Key, thing: Any) -> None:
    """Cache an object until the transaction ends; replace what the key had."""
    session.info.setdefault(_TAKEN, {})[key] = thing


def find(session: Session, key: Key) -> Any:
    """Return the object cached under the key, or None; never a row that has left the session."""
    thing = session.info.get(_TAKEN, {}).get(key)
    if thing is None:
        return None
    rows = thing if isinstance(thing, list | tuple) else [thing]
    known = [inspect(row, raiseerr=False) for row in rows]
    return None if any(one is not None and one.session is not session for one in known) else thing


def drop(session: Session, key: Key) -> None:
    """Remove the object cached under the key."""
    session.info.get(_TAKEN, {}).pop(key, None)


@event.listens_for(Session, "after_soft_rollback")
def _forget_rolled_back(session: Session, _transaction: SessionTransaction) -> None:
    session.info.pop(_TAKEN, None)


@event.listens_for(Session, "after_transaction_end")
def _forget_ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_TAKEN, None)
