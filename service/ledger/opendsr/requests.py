"""Requests of controllers: recorded once, followed by their deletion requests, cancelled.

A request has a deletion request for each subject id under which its person may be kept, all
recorded in one transaction. Its state follows from theirs and is stored nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, ServiceError, Unprocessable
from service.ledger.database import ids, locks
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    ApiKey,
    DeletionRequest,
    OpenDsrCallback,
    OpenDsrPart,
    OpenDsrRequest,
)
from service.ledger.opendsr.identities import Identity, Ingested
from service.ledger.requests import intake, lifecycle, lookup, page
from service.ledger.selection.digests import Digester
from service.ledger.selection.matching import Ask
from service.ledger.selection.regulations import MOST_EXTENSIONS, Period, Regulation

#: By how much a controller's clock may be ahead.
CLOCK_TOLERANCE = timedelta(minutes=5)


class Status(StrEnum):
    """The states of the specification, section 8."""

    PENDING = "pending"  # nothing of it is begun; it may be cancelled
    IN_PROGRESS = "in_progress"  # at least one model is unlearning it
    COMPLETED = "completed"  # nothing of it is held any more, or nothing ever was
    CANCELLED = "cancelled"  # by its controller; or denied, for which there is no other state


ENDS = frozenset({Status.COMPLETED, Status.CANCELLED})

BEGUN = frozenset({RequestStatus.PROCESSING, RequestStatus.NEEDS_REVIEW})
WAITING = frozenset({RequestStatus.AWAITING_APPROVAL, RequestStatus.ACCEPTED})
DROPPED = frozenset({RequestStatus.CANCELLED, RequestStatus.DENIED})


class UnknownRequest(NotFound):
    """The controller sent no request of this id."""


class NotPending(Conflict):
    """The request is begun or has ended, so it cannot be cancelled."""

    code = "not-pending"


class RequestIdReused(Unprocessable):
    """The subject_request_id was used for another request."""

    code = "subject-request-id-reused"


class BadTime(Unprocessable):
    """The submitted_time lies in the future, or its period has passed."""

    code = "bad-submitted-time"


@dataclass(frozen=True)
class New:
    """An erasure request as a controller sent it."""

    subject_request_id: str
    regulation: Regulation
    submitted_at: datetime
    identities: Sequence[Identity] = field(repr=False)
    #: They may hold a secret of the receiver.
    callbacks: Sequence[str] = field(default=(), repr=False)
    #: Its body as canonical text; only a keyed digest is kept.
    body: str = field(default="", repr=False)


@dataclass(frozen=True)
class Seen:
    """A request with what a controller may know of it."""

    row: OpenDsrRequest
    status: Status
    expected_by: datetime
    #: It was recorded by an earlier call.
    repeated: bool = False


def controller(session: Session, key_id: str) -> str:
    """Return a controller's id: the name of its key, which a renewed key keeps."""
    return session.get_one(ApiKey, key_id).name


def repeated(session: Session, new: New, *, principal: str, digester: Digester) -> Seen | None:
    """Return the request if it was recorded by an earlier call; raise ``RequestIdReused``."""
    owner = controller(session, principal)
    known = _find(session, owner, new.subject_request_id)
    if known is None:
        return None
    if known.body_digest not in digester.bodies(owner, new.body):
        raise RequestIdReused(
            "this subject_request_id was used for another request; take a new UUID"
        )
    return replace(_only(session, known), repeated=True)


def create(
    session: Session,
    new: New,
    *,
    principal: str,
    ingested: Ingested,
    digester: Digester,
    max_queue: int,
    now: datetime,
) -> Seen:
    """Record a request with its deletion requests and callbacks, or none of it.

    The caller has checked the callbacks' destinations. A repetition returns what was recorded. Two
    calls with one id at the same moment collide on the unique key: the loser's ``IntegrityError``
    is for the caller, who rolls back and calls again. Raise ``UnsupportedIdentity``, ``BadHash``,
    ``BadTime``, ``RequestIdReused``, and what a deletion request may be refused with.
    """
    known = repeated(session, new, principal=principal, digester=digester)
    if known is not None:
        return known
    owner = controller(session, principal)
    _check_time(new, now)
    subject_ids = ingested.subject_ids(new.identities)
    row = OpenDsrRequest(
        id=ids.new("od"),
        controller=owner,
        subject_request_id=new.subject_request_id,
        body_digest=digester.bodies(owner, new.body)[0],
        received_at=now,
    )
    session.add(row)
    session.flush()  # before anything is locked: of two calls with one id, one ends here
    asks = [_ask(new, subject_id) for subject_id in subject_ids]
    room = max_queue - lookup.count_open(session, up_to=max_queue)
    submissions = [page.Submission(ask, principal) for ask in asks]
    _record(session, submissions, digester=digester, now=now, room=room)
    session.add_all(OpenDsrPart(opendsr_id=row.id, request_id=one.id) for one in submissions)
    session.add_all(
        OpenDsrCallback(opendsr_id=row.id, url=url, told=Status.PENDING.value, failures=0)
        for url in dict.fromkeys(new.callbacks)
    )
    session.flush()
    return _only(session, row)


def show(session: Session, subject_request_id: str, *, principal: str) -> Seen:
    """Return a request of the caller's; raise ``UnknownRequest``."""
    return _only(session, _get(session, subject_request_id, principal))


def cancel(session: Session, subject_request_id: str, *, principal: str) -> Seen:
    """Cancel a request of which nothing is begun; again, it changes nothing.

    Raise ``UnknownRequest`` or ``NotPending``.
    """
    row = _get(session, subject_request_id, principal)
    locked = locks.requests(session, _part_ids(session, row))
    states = {one.status for one in locked}
    before = status_of(states)
    if before == Status.CANCELLED and RequestStatus.DENIED not in states:
        return _only(session, row)
    if before != Status.PENDING:
        raise NotPending(
            f"this request is {before}: only a pending one can be cancelled",
            state=before.value,
        )
    for one in locked:
        if one.status in WAITING:
            lifecycle.cancel(session, one.id, actor=f"key:{principal}")
    session.flush()
    return _only(session, row)


def status_of(parts: Iterable[RequestStatus]) -> Status:
    """Return the state of a request from those of its deletion requests."""
    states = set(parts)
    if states & BEGUN or (states & WAITING and RequestStatus.COMPLETED in states):
        return Status.IN_PROGRESS
    if states & WAITING:
        return Status.PENDING
    return Status.CANCELLED if states & DROPPED else Status.COMPLETED


def seen(session: Session, rows: Sequence[OpenDsrRequest]) -> list[Seen]:
    """Return each request with what its controller may know of it."""
    found: dict[str, list[DeletionRequest]] = {}
    of_them = session.execute(
        select(OpenDsrPart.opendsr_id, DeletionRequest)
        .join(DeletionRequest, DeletionRequest.id == OpenDsrPart.request_id)
        .where(OpenDsrPart.opendsr_id.in_([row.id for row in rows]))
        .execution_options(populate_existing=True)
    )
    for opendsr_id, request in of_them:
        found.setdefault(opendsr_id, []).append(request)
    return [_seen(row, found[row.id]) for row in rows]


def _only(session: Session, row: OpenDsrRequest) -> Seen:
    return seen(session, [row])[0]


def _record(
    session: Session,
    submissions: Sequence[page.Submission],
    *,
    digester: Digester,
    now: datetime,
    room: int,
) -> None:
    """Record all of them in this transaction; raise the first refusal."""
    left = list(submissions)
    while left:
        gathered = intake.gather(session, left, digester=digester, now=now, room=room)
        for outcome in gathered.outcomes:
            if isinstance(outcome, ServiceError):
                raise outcome
        gathered.write()
        room -= len(gathered.outcomes)
        left = left[len(gathered.outcomes) :]


def _ask(new: New, subject_id: str) -> Ask:
    return Ask(
        dataset=None,
        kind="subject",
        subject_id=subject_id,
        client_reference=f"opendsr:{new.subject_request_id}",
        period=Period(new.regulation),
        asked_at=new.submitted_at,
    )


def _check_time(new: New, now: datetime) -> None:
    if new.submitted_at > now + CLOCK_TOLERANCE:
        raise BadTime("submitted_time lies in the future; send when the person asked")
    extensions = MOST_EXTENSIONS[new.regulation]
    if Period(new.regulation).due(new.submitted_at, extensions=extensions) <= now:
        raise BadTime(
            f"the period of {new.regulation} since submitted_time has passed, extensions included, "
            "so that no due date is left; ask with POST /v1/deletion-requests, whose period begins "
            "when it arrives"
        )


def _find(session: Session, owner: str, subject_request_id: str) -> OpenDsrRequest | None:
    return session.scalar(
        select(OpenDsrRequest).where(
            OpenDsrRequest.controller == owner,
            OpenDsrRequest.subject_request_id == subject_request_id,
        )
    )


def _get(session: Session, subject_request_id: str, principal: str) -> OpenDsrRequest:
    row = _find(session, controller(session, principal), subject_request_id)
    if row is None:
        raise UnknownRequest(
            "keys of this name have sent no request with this subject_request_id; check it"
        )
    return row


def _part_ids(session: Session, row: OpenDsrRequest) -> Sequence[str]:
    wanted = select(OpenDsrPart.request_id).where(OpenDsrPart.opendsr_id == row.id)
    return session.scalars(wanted.order_by(OpenDsrPart.request_id)).all()


def _seen(row: OpenDsrRequest, its: Sequence[DeletionRequest]) -> Seen:
    status = status_of(one.status for one in its)
    ended = [one.completed_at for one in its if one.completed_at is not None]
    moments = ended if status in ENDS and ended else [one.expected_by for one in its]
    return Seen(row, status, max(moments))
