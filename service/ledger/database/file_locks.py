"""Locks on files of the store, by digest: between what refers to a file and what destroys it.

Files are named by their content, so a computation may store what another version has had, at the
moment at which that one is purged. Therefore whoever records that the ledger refers to a file locks
it and looks that it is there, and whoever destroys it locks it and looks that nothing refers to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from service.ledger.database import advisory

_KIND = 0xF11E
_BYTES = 4


def keys(digests: Iterable[str]) -> Sequence[advisory.Key]:
    """Return the keys of files' locks, in their order; few digests share one."""
    things = {int.from_bytes(bytes.fromhex(one)[:_BYTES], signed=True) for one in digests}
    return [(_KIND, thing) for thing in sorted(things)]


def hold(session: Session, digests: Iterable[str]) -> None:
    """Lock files until the transaction ends."""
    advisory.hold(session, keys(digests))
