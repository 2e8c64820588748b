"""Numbers about the whole installation, for its operators: what waits, for how long, on what.

Only counts, ages and sizes: nothing names a request, a record or a subject. What is over is not
counted by its state, since that would read the whole history at every look; the lines of the audit
chain say how much ends, and only the new ones are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, extract, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.ledger.database import db
from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import (
    Artifact,
    AuditEvent,
    AuditHead,
    Batch,
    DeletionRequest,
    Erasure,
    Lease,
    TrainingRun,
    Verification,
    Version,
)
from service.ledger.obligations import shares
from service.ledger.registry import copies, heartbeats
from service.ledger.registry.counts import Counts
from service.ledger.training import runs

#: States of versions whose weights are stored.
_STORED = tuple(state for state in VersionStatus if state != VersionStatus.PURGED)

#: Days until a request is due; a request is counted under each that it is within.
DAYS_LEFT = (0, 2, 7, 14, 30)
#: Days since a request was recorded; likewise.
AGES = (1, 7, 14, 30, 60)
_DAY = 86_400.0


@dataclass(frozen=True)
class Spread:
    """How requests are spread over days: how many are within each bound, how many, their sum."""

    within: Mapping[int, int]
    count: int
    days: float


@dataclass(frozen=True)
class Operations:
    """One look at the ledger.

    ``requests``, ``erasures``, ``batches`` and ``runs``: how many are in each state, of those that
    are not over. ``versions`` and ``verdicts``: of the versions whose weights are stored.
    ``days_left``: of open requests, until they are due, below 0: overdue. ``ages``: of those in
    each open state, since they were recorded. ``oldest_seconds``: age of the oldest request in each
    open state. ``leases``: held ones. ``workers``: live ones.
    ``bytes``: stored checkpoints and internal state, by kind. ``copies``: versions in the model
    registry. ``counted``: what workers count.
    """

    requests: Mapping[str, int]
    days_left: Spread
    ages: Mapping[str, Spread]
    oldest_seconds: Mapping[str, float]
    erasures: Mapping[str, int]
    batches: Mapping[str, int]
    runs: Mapping[str, int]
    versions: Mapping[str, int]
    verdicts: Mapping[str, int]
    leases: int
    workers: int
    bytes: Mapping[str, int]
    copies: copies.Numbers
    counted: Counts


def look(session: Session, *, beat_seconds: float) -> Operations:
    """Return the numbers as of now.

    Twelve statements, and on PostgreSQL two more for its time, whatever the ledger holds. They read
    what is open, what is stored and what is held, each found by an index.
    """
    now = heartbeats.server_time(session)
    requests, days_left, ages, oldest = _open_requests(session, now)
    under_way = db.among(Batch.status, BatchStatus.RUNNING, BatchStatus.HELD)
    return Operations(
        requests=requests,
        days_left=days_left,
        ages=ages,
        oldest_seconds=oldest,
        erasures=_by(session, Erasure.status, shares.is_open()),
        batches=_by(session, Batch.status, under_way),
        runs=_by(session, TrainingRun.status, db.among(TrainingRun.status, *runs.ACTIVE)),
        versions=_by(session, Version.status, Version.status.in_(_STORED)),
        verdicts=_by(
            session,
            Verification.verdict,
            Verification.version_id == Version.id,
            Version.status.in_(_STORED),
        ),
        leases=session.scalar(
            select(func.count()).where(Lease.owner.is_not(None), Lease.until > now)
        )
        or 0,
        workers=len(heartbeats.living(session, beat_seconds=beat_seconds)),
        bytes=_bytes(session),
        copies=copies.numbers(session, now=now),
        counted=heartbeats.counted(session),
    )


def new_lines(session: Session, *, after: int | None) -> tuple[int, Mapping[str, int]]:
    """Return the number of the audit chain's last line, and how many lines came since, by action.

    ``after`` is the last line that was counted; None: none is counted, and counting begins here.
    """
    last = session.scalars(select(AuditHead.seq)).one()
    if after is None or after == last:
        return last, {}
    found = session.execute(
        select(AuditEvent.action, func.count())
        .where(AuditEvent.seq > after, AuditEvent.seq <= last)
        .group_by(AuditEvent.action)
    )
    return last, dict(found.all())


def _by(
    session: Session, column: InstrumentedAttribute[Any], *which: ColumnElement[bool]
) -> dict[str, int]:
    found = session.execute(select(column, func.count()).where(*which).group_by(column))
    return {str(state): count for state, count in found}


def _open_requests(
    session: Session, now: datetime
) -> tuple[dict[str, int], Spread, dict[str, Spread], dict[str, float]]:
    def counted(which: ColumnElement[bool]) -> ColumnElement[int]:
        return func.coalesce(func.sum(case((which, 1), else_=0)), 0)

    def seconds(column: InstrumentedAttribute[datetime]) -> ColumnElement[Any]:
        return func.sum(extract("epoch", column))

    due, came = DeletionRequest.due_at, DeletionRequest.created_at
    wanted = (
        select(
            DeletionRequest.status,
            func.count(),
            func.min(came),
            seconds(due),
            seconds(came),
            *(counted(due <= now + timedelta(days=days)) for days in DAYS_LEFT),
            *(counted(came >= now - timedelta(days=days)) for days in AGES),
        )
        .where(DeletionRequest.is_open)
        .group_by(DeletionRequest.status)
    )
    left, left_days = dict.fromkeys(DAYS_LEFT, 0), 0.0
    requests: dict[str, int] = {}
    ages: dict[str, Spread] = {}
    oldest: dict[str, float] = {}
    rows: Sequence[Any] = session.execute(wanted).all()
    for status, number, first, due_sum, came_sum, *counts in rows:
        state, at = str(status), number * now.timestamp()
        requests[state] = number
        oldest[state] = max(0.0, (now - first).total_seconds())
        for days, count in zip(DAYS_LEFT, counts[: len(DAYS_LEFT)], strict=True):
            left[days] += int(count)
        left_days += (float(due_sum) - at) / _DAY
        within = dict(zip(AGES, map(int, counts[len(DAYS_LEFT) :]), strict=True))
        ages[state] = Spread(within, number, (at - float(came_sum)) / _DAY)
    return requests, Spread(left, sum(requests.values()), left_days), ages, oldest


def _bytes(session: Session) -> dict[str, int]:
    kept = select(func.coalesce(func.sum(Version.size_bytes), 0)).where(Version.status.in_(_STORED))
    internal = (
        select(Artifact.kind, func.sum(Artifact.size_bytes))
        .where(Artifact.destroyed_at.is_(None))
        .group_by(Artifact.kind)
    )
    found = {kind: int(size) for kind, size in session.execute(internal)}
    return {"checkpoints": int(session.scalar(kept) or 0), **found}
