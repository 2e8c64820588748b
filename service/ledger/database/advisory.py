"""Locks on what has no row of its own, until the transaction ends.

On SQLite nothing is locked: a writer has locked the whole database.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.orm import Session

#: Two 32-bit numbers: the kind of thing, and which one.
Key = tuple[int, int]

_HOLD = text(
    "SELECT pg_advisory_xact_lock(kind, thing)"
    " FROM unnest(CAST(:kinds AS integer[]), CAST(:things AS integer[])) AS locks(kind, thing)"
)


def hold(session: Session, keys: Iterable[Key]) -> None:
    """Take the locks in this order, in one statement."""
    wanted = list(keys)
    if wanted and session.get_bind().dialect.name == "postgresql":
        kinds, things = zip(*wanted, strict=True)
        session.execute(_HOLD, {"kinds": list(kinds), "things": list(things)})
