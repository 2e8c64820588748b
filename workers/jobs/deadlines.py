"""Watch the due dates of open requests, once a minute."""

from __future__ import annotations

import logging

from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.requests import deadlines
from workers.runtime import Runtime

log = logging.getLogger(__name__)

LEASE = "deadlines"
EVERY_SECONDS = 60.0


def run_due(runtime: Runtime) -> bool:
    """Warn of what is due soon or overdue; True if there was any that was not warned of."""
    with runtime.session() as session:
        if not leases.is_free(db.read_only(session), LEASE, now=runtime.now()):
            return False
    with runtime.session() as session:
        # Never released: the next look is due when the lease expires.
        held = leases.acquire(
            session, LEASE, owner=runtime.owner, seconds=EVERY_SECONDS, now=runtime.now()
        )
    if held is None:
        return False
    told, more = 0, True
    while more and not runtime.stop.is_set():
        with runtime.session() as session:
            leases.hold(session, held)
            given = deadlines.warn(session, actor=runtime.actor, now=runtime.now())
        told += given
        more = given == deadlines.AT_ONCE
    if told:
        log.warning("%d deletion requests are due soon or overdue", told)
    return told > 0
