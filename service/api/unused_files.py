"""Destroy files of the store as soon as nothing refers to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sqlalchemy.orm import Session

from models_store import Store, errors
from service.ledger.database import file_locks
from service.ledger.destruction import stored_files

log = logging.getLogger(__name__)


def destroy(
    session: Session, store: Store, kind: stored_files.Kind, digests: Iterable[str]
) -> None:
    """Destroy the files that the ledger does not refer to, and commit.

    What the store does not let go of now is left to the workers' sweep.
    """
    for digest in digests:
        file_locks.hold(session, [digest])
        unused = not stored_files.is_in_use(session, kind, digest)
        try:
            if unused:
                store.blobs.unlink(kind, digest)
            session.commit()
            if unused:
                store.blobs.discard(kind, digest)
        except (errors.StoreError, OSError) as error:
            session.rollback()
            log.warning("a file of the kind %s is left to the sweep: %s", kind, error)
