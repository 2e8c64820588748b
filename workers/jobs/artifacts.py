"""Internal state that a computation stored, registered with the versions it belongs to."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from models_store import Store, errors
from service.errors import Unavailable
from service.ledger.database import advisory, file_locks
from service.ledger.database.tables import Version
from service.ledger.destruction import stored_files
from service.ledger.registry import internal_state
from service.ledger.reports import shown_sets
from service.messages.parts import Made, Saved

log = logging.getLogger(__name__)


def are_there(
    session: Session,
    store: Store,
    made: Iterable[Made],
    *,
    checkpoint: Saved | None = None,
    sets_of: int | None = None,
) -> bool:
    """Lock files that the transaction will refer to; return whether all of them are stored.

    A file that nothing refers to yet may be swept, if its computation took long, or purged with a
    version that had the same content. ``sets_of`` is a dataset whose shown sets are locked before
    (``shown_sets.hold``), in the same statement.
    """
    files = [(stored_files.kind_in_store(one.kind), one.digest) for one in made]
    if checkpoint is not None:
        files.append(("checkpoints", checkpoint.digest))
    sets = [] if sets_of is None else [shown_sets.key(sets_of)]
    advisory.hold(session, [*sets, *file_locks.keys(digest for _, digest in files)])
    try:
        gone = [(kind, one) for kind, one in files if not store.blobs.exists(kind, one)]
    except errors.StoreError as error:
        raise Unavailable(str(error)) from error
    for kind, digest in gone:
        log.warning("%s %s was destroyed before it could be recorded", kind, digest)
    return not gone


def require(
    session: Session, store: Store, checkpoint: Saved, made: Iterable[Made], *, sets_of: int
) -> None:
    """Do as ``are_there``, and raise ``Unavailable`` if a file is gone."""
    if not are_there(session, store, made, checkpoint=checkpoint, sets_of=sets_of):
        raise Unavailable("what was computed is not in the store any more; it is computed again")


def attach(session: Session, version: Version, artifacts: list[Made], *, now: datetime) -> None:
    """Register stored internal state; an anchor's cache belongs to the anchor.

    The caller has called ``are_there`` or ``require`` in this transaction.
    """
    of_anchor = [_artifact(made) for made in artifacts if made.of_anchor]
    if of_anchor:
        internal_state.attach(
            session, session.get_one(Version, version.anchor_id), of_anchor, now=now
        )
    of_version = [_artifact(made) for made in artifacts if not made.of_anchor]
    internal_state.attach(session, version, of_version, now=now)


def _artifact(made: Made) -> dict[str, Any]:
    return {
        "kind": made.kind,
        "digest": made.digest,
        "size_bytes": made.size_bytes,
        "notes": made.notes,
    }
