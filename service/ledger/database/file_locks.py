"""Locks on files of the store, by digest: between what refers to a file and what destroys it.

Files are named by their content, so a computation may store what another version has had, at the
moment at which that one is purged. Therefore whoever records that the ledger refers to a file locks
it and looks that it is there, and whoever destroys it locks it and looks that nothing refers to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.orm import Session

#: First half of the keys of PostgreSQL's advisory locks; the second is the digest's beginning.
_LOCK = 0xF11E
_BYTES = 4

_HOLD = text(
    "SELECT pg_advisory_xact_lock(:lock, digest) FROM unnest(CAST(:digests AS integer[])) AS digest"
)


def hold(session: Session, digests: Iterable[str]) -> None:
    """Lock files until the transaction ends; on SQLite a writer has locked the whole database.

    Some digests share a lock, which only costs time.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    keys = {int.from_bytes(bytes.fromhex(one)[:_BYTES], signed=True) for one in digests}
    if keys:
        session.execute(_HOLD, {"lock": _LOCK, "digests": sorted(keys)})
