"""What a session's transaction has locked or made, so that it locks and reads nothing twice.

What is kept here is true until the transaction ends, because nobody else can change it: a row
under a lock that lets no writer pass, a row that no other transaction sees yet, a lease that is
held. Everything is forgotten at the end of the transaction, and when a savepoint is rolled back,
which gives up the locks that were taken within it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.orm import Session, SessionTransaction

_TAKEN = "ledger_taken"

Key = tuple[Hashable, ...]


def keep(session: Session, key: Key, thing: Any) -> None:
    """Keep a thing until the transaction ends, in place of what was kept under the key."""
    session.info.setdefault(_TAKEN, {})[key] = thing


def find(session: Session, key: Key) -> Any:
    """Return what was kept under the key, or None; no row that has left the session."""
    thing = session.info.get(_TAKEN, {}).get(key)
    if thing is None:
        return None
    rows = thing if isinstance(thing, list | tuple) else [thing]
    known = [inspect(row, raiseerr=False) for row in rows]
    return None if any(one is not None and one.session is not session for one in known) else thing


def drop(session: Session, key: Key) -> None:
    """Forget what was kept under the key."""
    session.info.get(_TAKEN, {}).pop(key, None)


@event.listens_for(Session, "after_soft_rollback")
def _forget_rolled_back(session: Session, _transaction: SessionTransaction) -> None:
    session.info.pop(_TAKEN, None)


@event.listens_for(Session, "after_transaction_end")
def _forget_ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_TAKEN, None)
