"""Numbers about the whole installation, for its operators: what waits, for how long, on what.

Only counts, ages and sizes: nothing names a request, a record or a subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    Artifact,
    Batch,
    DeletionRequest,
    Erasure,
    Lease,
    TrainingRun,
    Verification,
    Version,
)
from service.ledger.registry import heartbeats

#: Requests in these states are still owed something.
OPEN = (
    RequestStatus.AWAITING_APPROVAL,
    RequestStatus.ACCEPTED,
    RequestStatus.PROCESSING,
    RequestStatus.NEEDS_REVIEW,
)

#: Days until a request is due; a request is counted under each that it is within.
DAYS_LEFT = (0, 2, 7, 14, 30)


@dataclass(frozen=True)
class Operations:
    """One look at the ledger.

    ``requests``, ``erasures``, ``batches``, ``runs``, ``versions`` and ``verdicts``: how many rows
    are in each state. ``due_within``: open requests due within so many days, 0: overdue.
    ``oldest_seconds``: age of the oldest request in each open state. ``leases``: held ones.
    ``workers``: live ones. ``bytes``: stored checkpoints and internal state, by kind.
    """

    requests: Mapping[str, int]
    due_within: Mapping[int, int]
    oldest_seconds: Mapping[str, float]
    erasures: Mapping[str, int]
    batches: Mapping[str, int]
    runs: Mapping[str, int]
    versions: Mapping[str, int]
    verdicts: Mapping[str, int]
    leases: int
    workers: int
    bytes: Mapping[str, int]


def look(session: Session, *, beat_seconds: float) -> Operations:
    """Return the numbers as of now.

    Eleven statements, and on PostgreSQL two more for its time, whatever the ledger holds; those
    that count states read their whole table.
    """
    now = heartbeats.server_time(session)
    due, oldest = _open_requests(session, now)
    return Operations(
        requests=_by(session, DeletionRequest.status),
        due_within=due,
        oldest_seconds=oldest,
        erasures=_by(session, Erasure.status),
        batches=_by(session, Batch.status),
        runs=_by(session, TrainingRun.status),
        versions=_by(session, Version.status),
        verdicts=_by(session, Verification.verdict),
        leases=session.scalar(
            select(func.count()).where(Lease.owner.is_not(None), Lease.until > now)
        )
        or 0,
        workers=len(heartbeats.living(session, beat_seconds=beat_seconds)),
        bytes=_bytes(session),
    )


def _by(session: Session, column: InstrumentedAttribute[Any]) -> dict[str, int]:
    found = session.execute(select(column, func.count()).group_by(column))
    return {str(state): count for state, count in found}


def _open_requests(session: Session, now: datetime) -> tuple[dict[int, int], dict[str, float]]:
    def within(days: int) -> ColumnElement[int]:
        soon = DeletionRequest.due_at <= now + timedelta(days=days)
        return func.coalesce(func.sum(case((soon, 1), else_=0)), 0)

    wanted = (
        select(
            DeletionRequest.status,
            func.min(DeletionRequest.created_at),
            *(within(days) for days in DAYS_LEFT),
        )
        .where(DeletionRequest.status.in_(OPEN))
        .group_by(DeletionRequest.status)
    )
    due = dict.fromkeys(DAYS_LEFT, 0)
    oldest: dict[str, float] = {}
    rows: Sequence[Any] = session.execute(wanted).all()
    for status, first, *counts in rows:
        oldest[str(status)] = max(0.0, (now - first).total_seconds())
        for days, count in zip(DAYS_LEFT, counts, strict=True):
            due[days] += int(count)
    return due, oldest


def _bytes(session: Session) -> dict[str, int]:
    kept = select(func.coalesce(func.sum(Version.size_bytes), 0)).where(Version.purged_at.is_(None))
    internal = (
        select(Artifact.kind, func.sum(Artifact.size_bytes))
        .where(Artifact.destroyed_at.is_(None))
        .group_by(Artifact.kind)
    )
    found = {kind: int(size) for kind, size in session.execute(internal)}
    return {"checkpoints": int(session.scalar(kept) or 0), **found}
