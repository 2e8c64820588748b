"""Due dates of requests: watched, so that nobody learns too late, and extended with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.audit import canonical, chain
from service.ledger.database import locks
from service.ledger.database.states import REQUEST_ENDS
from service.ledger.database.tables import DeletionRequest
from service.ledger.requests import lookup
from service.ledger.selection.regulations import MOST_EXTENSIONS, Period, Regulation

#: Days before the due date at which a warning is given; 0: when it has passed.
WARNINGS = (7, 2, 0)
#: Requests warned of in one transaction.
AT_ONCE = 1_000


class ExtensionReason(StrEnum):
    """Why a request takes longer; GDPR 12(3) knows these two."""

    COMPLEXITY = "complexity"
    NUMBER_OF_REQUESTS = "number_of_requests"


class NotExtendable(Conflict):
    """The due date of the request cannot be moved any further."""

    code = "not-extendable"


def warn(session: Session, *, actor: str, now: datetime) -> int:
    """Write an audit line for each open request that has passed a warning; return how many.

    Each warning of a due date is given once. Of several that were passed since the last look, the
    latest alone is. Call it again when ``AT_ONCE`` were given.
    """
    given = func.coalesce(DeletionRequest.warnings, 0)
    passed = [
        and_(DeletionRequest.due_at <= now + timedelta(days=days), given < number)
        for number, days in enumerate(WARNINGS, start=1)
    ]
    found = session.execute(
        select(DeletionRequest.id, DeletionRequest.due_at)
        .where(DeletionRequest.is_open, or_(*passed))
        .order_by(DeletionRequest.id)
        .limit(AT_ONCE)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    for number in range(1, len(WARNINGS) + 1):
        here = [one.id for one in found if _passed(one.due_at, now) == number]
        if here:
            session.execute(
                update(DeletionRequest)
                .where(DeletionRequest.id.in_(here))
                .values(warnings=number)
                .execution_options(synchronize_session=False)
            )
    chain.append_many(session, actor=actor, lines=[_line(one.id, one.due_at, now) for one in found])
    return len(found)


def extend(
    session: Session,
    request_id: str,
    *,
    periods: int,
    because: ExtensionReason,
    reason: str,
    actor: str,
    now: datetime,
) -> DeletionRequest:
    """Extend the due date of an open request by so many periods of its regulation.

    The person must be told of it, with the reason, before the present due date: afterwards it
    cannot be extended. Raise ``NotExtendable``.
    """
    found = locks.requests(session, [request_id])
    request = found[0] if found else lookup.get(session, request_id)
    if request.status in REQUEST_ENDS:
        raise NotExtendable(f"this request is {request.status}; it has no due date any more")
    if now >= request.due_at:
        raise NotExtendable("its due date has passed; it could be extended only before")
    regulation = _regulation(request)
    extensions = (request.extensions or 0) + periods
    left = periods_left(request)
    if periods > left:
        raise NotExtendable(
            f"{regulation} allows {MOST_EXTENSIONS[regulation]} extensions of its period in all; "
            f"{left} are left"
        )
    before = request.due_at
    asked = request.asked_at or request.created_at
    extended = Period(regulation).due(asked, extensions=extensions)
    if extended <= before:  # it was given longer than its regulation's period
        raise NotExtendable("its due date is later than the extension would have it")
    request.due_at = extended
    request.extensions = extensions
    request.extension_reason = reason
    # What was warned of was the other date.
    request.warnings = _passed(request.due_at, now)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DELETION_REQUEST_EXTENDED,
        subject=f"deletion_request:{request.id}",
        data={
            "because": because.value,
            "periods": periods,
            "before": canonical.moment(before),
            "due_at": canonical.moment(request.due_at),
        },
    )
    return request


def restore(
    session: Session,
    request_id: str,
    *,
    due_at: datetime,
    extensions: int | None,
    actor: str,
    now: datetime,
) -> None:
    """Give an open request the due date that it had before a backup was restored."""
    for request in locks.requests(session, [request_id]):
        before, request.due_at, request.extensions = request.due_at, due_at, extensions
        request.warnings = _passed(due_at, now)
        session.flush()
        chain.append(
            session,
            actor=actor,
            action=chain.Action.DELETION_REQUEST_EXTENDED,
            subject=f"deletion_request:{request.id}",
            data={
                "before": canonical.moment(before),
                "due_at": canonical.moment(due_at),
                "restored": True,
            },
        )


def periods_left(request: DeletionRequest) -> int:
    """Return by how many periods its regulation lets the request be extended yet."""
    return MOST_EXTENSIONS[_regulation(request)] - (request.extensions or 0)


def _regulation(request: DeletionRequest) -> Regulation:
    return Regulation(request.regulation or Regulation.GDPR)


def _passed(due_at: datetime, now: datetime) -> int:
    """Return how many of the warnings of a due date lie in the past."""
    return sum(due_at <= now + timedelta(days=days) for days in WARNINGS)


def _line(request_id: str, due_at: datetime, now: datetime) -> chain.Line:
    subject, data = f"deletion_request:{request_id}", {"due_at": canonical.moment(due_at)}
    if due_at <= now:
        return chain.Line(chain.Action.DELETION_REQUEST_OVERDUE, subject, data)
    days = _nearest(WARNINGS, due_at - now)
    return chain.Line(
        chain.Action.DELETION_REQUEST_DUE_SOON, subject, {**data, "within_days": days}
    )


def _nearest(days: Sequence[int], left: timedelta) -> int:
    return min(one for one in days if left <= timedelta(days=one))
