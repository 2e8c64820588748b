"""Callbacks: which controller has to be told which state, and what became of an attempt.

What is to be told follows from the tables: a callback is due while the state that it was told last
is not the state of its request. It is told at least once, also if a sender dies between sending and
recording, and the last state always; one that lasted for less than the sender's round may be passed
over. Nothing is written when a state changes, so no code that moves one needs to know of callbacks.

Webhooks follow the audit chain, each with a place in it; a place for each of thousands of requests
would have the chain read thousands of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, func, or_, select, update
from sqlalchemy.orm import Session

from service.ledger.batches import leases
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    DeletionRequest,
    OpenDsrCallback,
    OpenDsrPart,
    OpenDsrRequest,
)
from service.ledger.opendsr import bodies, requests
from service.ledger.opendsr.requests import Status
from service.ledger.webhooks.outbox import Backoff

#: The lease under which callbacks are sent: one worker at a time, so that none is sent twice.
LEASE = "opendsr:callbacks"

#: Callbacks read at once.
MOST_AT_ONCE = 200


@dataclass(frozen=True)
class Due:
    """A state that one callback URL is to be told."""

    callback_id: int
    #: Of the OpenDSR request, for logs.
    request: str
    url: str = field(repr=False)
    status: Status
    #: What is posted.
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Told:
    """What became of an attempt."""

    due: Due
    at: datetime
    #: The receiver's HTTP status; None: no answer.
    answered: int | None = None
    #: Why it failed; None: it was delivered.
    error: str | None = None
    #: Its Retry-After, in seconds.
    retry_after: float | None = None


def due(session: Session, *, now: datetime) -> list[Due]:
    """Return what is to be told now; those first whose last delivery is longest ago."""
    found = session.scalars(
        select(OpenDsrCallback)
        .where(
            OpenDsrCallback.ended_at.is_(None),
            or_(OpenDsrCallback.not_before.is_(None), OpenDsrCallback.not_before <= now),
            _status() != OpenDsrCallback.told,
        )
        .order_by(OpenDsrCallback.delivered_at.asc().nulls_first(), OpenDsrCallback.id)
        .limit(MOST_AT_ONCE)
    ).all()
    seen = _seen(session, found)
    return [
        Due(one.id, one.opendsr_id, one.url, its.status, bodies.callback(its, one.url))
        for one in found
        for its in [seen[one.opendsr_id]]
    ]


def record(
    session: Session,
    told: Told,
    *,
    held: leases.Held,
    behind: Sequence[Due] = (),
    backoff: Backoff,
    jitter: float,
    now: datetime,
) -> None:
    """Record an attempt. ``LeaseLost``: another sender has taken over.

    ``behind``: what the same host was to be told next. After a failure it waits as long, so that a
    host that is gone does not fill every round.
    """
    leases.hold(session, held)
    row = session.get_one(
        OpenDsrCallback, told.due.callback_id, with_for_update=True, populate_existing=True
    )
    row.error = told.error
    if told.error is None:
        row.told, row.delivered_at = told.due.status.value, told.at
        row.failures, row.failing_since, row.not_before = 0, None, None
        row.ended_at = now if told.due.status in requests.ENDS else None
        return
    row.failures += 1
    row.failing_since = row.failing_since or told.at
    row.not_before = now + backoff.pause(row.failures, jitter=jitter, asked=told.retry_after)
    session.execute(
        update(OpenDsrCallback)
        .where(OpenDsrCallback.id.in_([one.callback_id for one in behind]))
        .values(not_before=row.not_before)
        .execution_options(synchronize_session=False)
    )
    gone = now - row.failing_since >= timedelta(seconds=backoff.give_up_seconds)
    if told.answered == 410 or gone:
        row.ended_at = now


def reopen(session: Session) -> None:
    """Have controllers be told again of requests that the reconciler has opened again."""
    # From the open requests on, which are few: callbacks that have ended grow with history.
    opened = (
        select(OpenDsrPart.opendsr_id)
        .join(DeletionRequest, DeletionRequest.id == OpenDsrPart.request_id)
        .where(DeletionRequest.is_open)
    )
    session.execute(
        update(OpenDsrCallback)
        .where(
            OpenDsrCallback.opendsr_id.in_(opened),
            OpenDsrCallback.ended_at.is_not(None),
            OpenDsrCallback.error.is_(None),
        )
        .values(ended_at=None)
        .execution_options(synchronize_session=False)
    )


def _status() -> ColumnElement[str]:
    """Return SQL for ``requests.status_of`` of a callback's request."""

    def some(*states: RequestStatus) -> ColumnElement[bool]:
        found = case((DeletionRequest.status.in_(states), 1), else_=0)
        return func.max(found) == 1

    begun = some(*requests.BEGUN)
    waiting = some(*requests.WAITING)
    done = some(RequestStatus.COMPLETED)
    dropped = some(*requests.DROPPED)
    return (
        select(
            case(
                (or_(begun, waiting & done), Status.IN_PROGRESS.value),
                (waiting, Status.PENDING.value),
                (dropped, Status.CANCELLED.value),
                else_=Status.COMPLETED.value,
            )
        )
        .select_from(OpenDsrPart)
        .join(DeletionRequest, DeletionRequest.id == OpenDsrPart.request_id)
        .where(OpenDsrPart.opendsr_id == OpenDsrCallback.opendsr_id)
        .correlate(OpenDsrCallback)
        .scalar_subquery()
    )


def _seen(session: Session, callbacks: Sequence[OpenDsrCallback]) -> dict[str, requests.Seen]:
    wanted = {one.opendsr_id for one in callbacks}
    rows = session.scalars(select(OpenDsrRequest).where(OpenDsrRequest.id.in_(wanted))).all()
    return {one.row.id: one for one in requests.seen(session, rows)}
