"""What the page for operators shows: numbers for all who may read them, names for admins."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service.console import charts
from service.console.sessions import Visitor
from service.ledger.destruction import purges
from service.ledger.registry import copies
from service.ledger.reports import operations, workload
from service.settings import Settings

#: Rows of the calendar.
PLANNED = 50
#: Seconds for which a lane may be busy, in timeouts of a batch, before the page points at it.
STUCK = 1.0


def page(
    session: Session, visitor: Visitor, settings: Settings, *, now: datetime
) -> dict[str, Any]:
    """Return what waits, what runs, who holds what, and what will be destroyed when."""
    everything = visitor.may("admin")
    beat_seconds = settings.heartbeat_seconds
    return {
        "seen": operations.look(session, beat_seconds=beat_seconds),
        "everything": everything,
        "workers": workload.workers(session, beat_seconds=beat_seconds) if everything else [],
        "leases": workload.leases(session) if everything else [],
        "queues": workload.queues(session) if visitor.may("models:read") else None,
        "under_way": workload.under_way(session) if visitor.may("models:read") else None,
        "stuck": copies.stuck(session, limit=PLANNED) if visitor.may("models:read") else None,
        "planned": purges.calendar(session, limit=PLANNED) if visitor.may("models:read") else None,
        "bar": charts.progress,
        "stuck_seconds": STUCK * settings.batch_timeout_seconds,
    }
