"""One decision about every request that fits a filter: counted, confirmed, done in portions.

A decision begins with the number of requests that was confirmed, and covers those alone that
fitted then: none that was recorded, or came into the state, after the line of the audit chain up to
which they were counted, even if its id is earlier. If one of them left meanwhile and another came,
the number is the same and the decision does not begin. Each request is decided about in a
transaction of its own, with its own audit line and the decision's progress in it, so a decision
that is interrupted goes on where it stopped and no request is counted twice. What a single decision
refuses (a legal hold, a second person that is needed) is refused here, too, and leaves the others
as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from service.errors import Conflict, Forbidden, NotFound, ServiceError
from service.ledger.audit import canonical, chain
from service.ledger.database import db, ids
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import AuditEvent, AuditHead, BulkDecision, DeletionRequest
from service.ledger.requests import lifecycle, worklist
from service.ledger.requests.lifecycle import DenialReason

#: Most requests that one portion decides about.
MOST_AT_ONCE = 200
#: Refused requests that are listed with the decision; all are counted.
LISTED = 100


class Action(StrEnum):
    """What is decided."""

    APPROVE = "approve"
    DENY = "deny"
    RETRY = "retry"


#: The state in which a request can be decided about so.
STATES: Mapping[Action, RequestStatus] = {
    Action.APPROVE: RequestStatus.AWAITING_APPROVAL,
    Action.DENY: RequestStatus.AWAITING_APPROVAL,
    Action.RETRY: RequestStatus.NEEDS_REVIEW,
}
#: The line of the audit chain that a request has of coming into this state.
CAME = {
    RequestStatus.AWAITING_APPROVAL: chain.Action.DELETION_REQUEST_AWAITING_APPROVAL,
    RequestStatus.NEEDS_REVIEW: chain.Action.DELETION_REQUEST_NEEDS_REVIEW,
}
#: Under which the line of a decision's begin names the chain's last line when it was counted.
_COUNTED_UP_TO = "counted_up_to"
#: The scope that a key needs for it.
SCOPES: Mapping[Action, str] = {
    Action.APPROVE: "requests:approve",
    Action.DENY: "requests:approve",
    Action.RETRY: "requests:write",
}


class CountChanged(Conflict):
    """Other requests fit than those whose number was confirmed."""

    code = "count-changed"


@dataclass(frozen=True)
class Filter:
    """Conditions on requests in the action's state; None: no condition."""

    dataset: str | None = None
    model: str | None = None
    due_before: datetime | None = None
    received_before: datetime | None = None
    #: How the client's own name of the request begins.
    reference: str | None = None

    def wanted(self, action: Action) -> worklist.Wanted:
        """Return the conditions of the list of these requests."""
        return worklist.Wanted(
            status=STATES[action],
            dataset=self.dataset,
            model=self.model,
            due_before=self.due_before,
            received_before=self.received_before,
            reference=self.reference,
        )


@dataclass(frozen=True)
class Counted:
    """How many requests fit, and the last line of the audit chain before they were counted."""

    number: int
    up_to: int


def count(session: Session, action: Action, chosen: Filter) -> Counted:
    """Return how many requests fit now."""
    # Before the count: what comes between the two is counted, and only passed over.
    up_to = _last_line(session)
    return Counted(_count(session, action, chosen)[0], up_to)


def begin(
    session: Session,
    action: Action,
    chosen: Filter,
    *,
    matching: int,
    up_to: int | None = None,
    reason: str | None = None,
    code: DenialReason = DenialReason.OTHER,
    actor: str,
    now: datetime,
) -> BulkDecision:
    """Record the decision; nothing is decided about yet.

    ``matching`` and ``up_to``: what was counted and confirmed; without ``up_to`` it is counted now.
    Raise ``CountChanged`` if other requests fit by now.
    """
    counted_up_to = _last_line(session) if up_to is None else min(up_to, _last_line(session))
    number, last = _count(session, action, chosen)
    if number != matching:
        raise CountChanged(
            f"{number} requests fit now, not {matching}; look at the number again and confirm it",
            matching=number,
        )
    if up_to is not None and _count(session, action, chosen, up_to=up_to)[0] != matching:
        raise CountChanged(
            f"{number} requests fit, as before, but others than those that were counted; look at "
            "them again and confirm the number",
            matching=number,
        )
    row = BulkDecision(
        id=ids.new("bd"),
        action=action.value,
        filter={name: canonical.plain(value) for name, value in asdict(chosen).items() if value},
        reason=reason,
        reason_code=code.value if action == Action.DENY else None,
        actor=actor,
        matching=number,
        place="",
        until=last or "",
        done=0,
        refused=0,
        refusals=[],
        created_at=now,
    )
    session.add(row)
    session.flush()
    # The reference is a client's own text.
    said = {name: value for name, value in row.filter.items() if name != "reference"}
    data = {"action": row.action, "matching": number, "filter": said, _COUNTED_UP_TO: counted_up_to}
    _say(session, chain.Action.BULK_DECISION_BEGUN, row, data)
    if not number:
        _end(session, row, now=now)
    return row


def get(session: Session, decision_id: str) -> BulkDecision:
    """Return one decision; raise ``NotFound`` if there is none."""
    row = session.get(BulkDecision, decision_id)
    if row is None:
        raise NotFound("no bulk decision has this id")
    return row


def describe(row: BulkDecision) -> dict[str, Any]:
    """Return a decision in its public form."""
    return {
        "id": row.id,
        "action": row.action,
        "filter": row.filter,
        "matching": row.matching,
        "done": row.done,
        "refused": row.refused,
        "refusals": row.refusals,
        "created_at": canonical.moment(row.created_at),
        "ended_at": None if row.ended_at is None else canonical.moment(row.ended_at),
    }


def go_on(
    sessions: sessionmaker[Session], decision_id: str, *, actor: str, most: int = MOST_AT_ONCE
) -> BulkDecision:
    """Decide about the next ``most`` requests at most; return the decision as it is then.

    Raise ``Forbidden`` for anybody but who began it: each request is decided about in that name.
    """
    with sessions() as session:
        row = get(db.read_only(session), decision_id)
        _require_own(row, actor)
        if row.ended_at is not None:
            return row
        found = _next(session, row, most=most)
    for request_id in found:
        if not _decide(sessions, decision_id, request_id, actor=actor):
            break  # another call goes on with it
    with sessions.begin() as session:
        row = session.get_one(BulkDecision, decision_id, with_for_update=True)
        if row.ended_at is None and not _next(session, row, most=1):
            _end(session, row, now=db.now())
        session.flush()
        session.expunge(row)
        return row


def _decide(
    sessions: sessionmaker[Session], decision_id: str, request_id: str, *, actor: str
) -> bool:
    """Decide about one request; return False if another call has done it."""
    try:
        with sessions.begin() as session:
            row = get(session, decision_id)
            before = row.place
            _apply(session, row, request_id, actor=actor)
            return _move(session, row, before, request_id, done=BulkDecision.done + 1)
    except _Overtaken:
        return False
    except ServiceError as error:
        detail = error.detail
    with sessions.begin() as session:
        row = get(session, decision_id)
        listed = row.refusals
        if len(listed) < LISTED:
            listed = [*listed, {"request": request_id, "detail": detail}]
        try:
            return _move(
                session,
                row,
                row.place,
                request_id,
                refused=BulkDecision.refused + 1,
                refusals=listed,
            )
        except _Overtaken:
            session.rollback()
            return False


class _Overtaken(Exception):
    """Another call has decided about the request."""


def _move(session: Session, row: BulkDecision, before: str, request_id: str, **values: Any) -> bool:
    """Move a decision's place to a request in the transaction that decides about it."""
    moved = session.execute(
        update(BulkDecision)
        .where(BulkDecision.id == row.id, BulkDecision.place == before)
        .where(BulkDecision.place < request_id)
        .values(place=request_id, **values)
        .returning(BulkDecision.id)
        .execution_options(synchronize_session=False)
    ).all()
    if not moved:
        raise _Overtaken
    return True


def _apply(session: Session, row: BulkDecision, request_id: str, *, actor: str) -> None:
    if row.action == Action.APPROVE:
        lifecycle.approve(session, request_id, actor=actor, now=db.now())
    elif row.action == Action.DENY:
        code = DenialReason(row.reason_code or DenialReason.OTHER)
        lifecycle.deny(session, request_id, because=row.reason, code=code, actor=actor)
    else:
        lifecycle.retry(session, request_id, actor=actor)


def _next(session: Session, row: BulkDecision, *, most: int) -> list[str]:
    """Return ids of the next requests that fit and are not decided about, in their order."""
    action, chosen = Action(row.action), _filter(row)
    wanted = (
        select(DeletionRequest.id)
        .where(*worklist.conditions(session, chosen.wanted(action)))
        .where(DeletionRequest.id > row.place, DeletionRequest.id <= row.until)
        .where(~_came_later(STATES[action], _counted_up_to(session, row)))
        .order_by(DeletionRequest.id)
        .limit(most)
    )
    return list(session.scalars(wanted))


def _came_later(state: RequestStatus, line: int) -> ColumnElement[bool]:
    """Return SQL: ``DeletionRequest`` came into the state after this line of the audit chain."""
    return exists().where(
        AuditEvent.subject == "deletion_request:" + DeletionRequest.id,
        AuditEvent.action == CAME[state],
        AuditEvent.seq > line,
    )


def _counted_up_to(session: Session, row: BulkDecision) -> int:
    begun = select(AuditEvent.data).where(
        AuditEvent.subject == _subject(row), AuditEvent.action == chain.Action.BULK_DECISION_BEGUN
    )
    found: int = session.scalars(begun).one()[_COUNTED_UP_TO]
    return found


def _subject(row: BulkDecision) -> str:
    return f"bulk_decision:{row.id}"


def _filter(row: BulkDecision) -> Filter:
    given = dict(row.filter)
    for name in ("due_before", "received_before"):
        if name in given:
            given[name] = datetime.fromisoformat(given[name])
    return Filter(**given)


def _last_line(session: Session) -> int:
    return session.scalar(select(AuditHead.seq).where(AuditHead.id == 1)) or 0


def _count(
    session: Session, action: Action, chosen: Filter, *, up_to: int | None = None
) -> tuple[int, str | None]:
    """Return how many requests fit, of those up to a line of the chain, and the last one's id."""
    wanted = worklist.conditions(session, chosen.wanted(action))
    if up_to is not None:
        wanted.append(~_came_later(STATES[action], up_to))
    found = session.execute(select(func.count(), func.max(DeletionRequest.id)).where(*wanted)).one()
    return found[0], found[1]


def _require_own(row: BulkDecision, actor: str) -> None:
    if row.actor != actor:
        raise Forbidden("somebody else began this decision; only they can go on with it")


def _end(session: Session, row: BulkDecision, *, now: datetime) -> None:
    row.ended_at = now
    data = {"action": row.action, "done": row.done, "refused": row.refused}
    _say(session, chain.Action.BULK_DECISION_ENDED, row, data)


def _say(session: Session, action: chain.Action, row: BulkDecision, data: dict[str, Any]) -> None:
    chain.append(session, actor=row.actor, action=action, subject=_subject(row), data=data)
