"""Deletion requests after recording: read, cancel, approve, deny, retry.

Recording is in ``intake``; what workers change (claimed, completed, put aside) is in ``erasures``
and ``execution``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from service.errors import Conflict, Forbidden, NotFound
from service.ledger.audit import canonical, chain, machines
from service.ledger.database import db, ids, locks
from service.ledger.database.states import (
    REQUEST_ENDS,
    REQUEST_MOVES,
    ErasureStatus,
    RequestStatus,
    check_move,
)
from service.ledger.database.tables import (
    AuditEvent,
    Dataset,
    DeletionRequest,
    Erasure,
    LegalHold,
    Model,
    Record,
    RequestDataset,
    Version,
)
from service.ledger.obligations import legal, shares
from service.ledger.registry.policy import Policy
from service.ledger.requests import outlook, parts, suppressions
from service.ledger.requests.descriptions import describe, waits_for
from service.ledger.requests.intake import gather, record, record_many, recorded
from service.ledger.requests.page import Receipt, Submission
from service.ledger.selection import naming
from service.ledger.selection.matching import Ask

__all__ = [
    "Ask",
    "Receipt",
    "Submission",
    "describe",
    "gather",
    "record",
    "record_many",
    "recorded",
]


class AlreadyClaimed(Conflict):
    """A worker has begun with the request, so it will be completed."""

    code = "already-claimed"


class SecondPersonNeeded(Forbidden):
    """A request is approved by another key than the one that asked."""

    code = "second-person-needed"


class DenialReason(StrEnum):
    """Why a request is denied, where a regulation knows the reason."""

    IDENTITY_NOT_VERIFIED = "identity_not_verified"  # GDPR 12(6)
    MANIFESTLY_UNFOUNDED = "manifestly_unfounded"  # GDPR 12(5)
    EXCESSIVE = "excessive"  # GDPR 12(5)
    FREEDOM_OF_EXPRESSION = "freedom_of_expression"  # GDPR 17(3)(a)
    LEGAL_OBLIGATION = "legal_obligation"  # GDPR 17(3)(b)
    PUBLIC_HEALTH = "public_health"  # GDPR 17(3)(c)
    ARCHIVING_OR_RESEARCH = "archiving_or_research"  # GDPR 17(3)(d)
    LEGAL_CLAIMS = "legal_claims"  # GDPR 17(3)(e)
    DUPLICATE = "duplicate"
    OTHER = "other"


@dataclass(frozen=True)
class Filter:
    """Conditions of a list of requests; None: no condition."""

    status: RequestStatus | None = None
    dataset: str | None = None
    model: str | None = None
    due_before: datetime | None = None


def get(session: Session, request_id: str) -> DeletionRequest:
    """Return one request; raise ``NotFound`` if there is none."""
    row = session.get(DeletionRequest, request_id)
    if row is None:
        raise NotFound("no deletion request has this id; GET /v1/deletion-requests lists them")
    return row


def detail(session: Session, request: DeletionRequest) -> dict[str, Any]:
    """Return a request in its public form, with its state on each model."""
    by_dataset = _by_dataset(session, request)
    named = None if request.dataset_id is None else by_dataset[0]["dataset"]
    return {
        **describe(request, named, waits_for(session, request)),
        "datasets": by_dataset,
        "erasures": _shares(session, request),
        "legal_holds": _legal_holds(session, request),
    }


def listing(
    session: Session, chosen: Filter, *, after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return requests in their public form, oldest first, from after an id on."""
    wanted = (
        select(DeletionRequest, Dataset.name)
        .outerjoin(Dataset, Dataset.id == DeletionRequest.dataset_id)
        .order_by(DeletionRequest.id)
        .limit(limit)
    )
    if after is not None:
        wanted = wanted.where(DeletionRequest.id > after)
    if chosen.status is not None:
        wanted = wanted.where(DeletionRequest.status == chosen.status)
        if chosen.status not in REQUEST_ENDS:
            wanted = wanted.where(DeletionRequest.is_open)  # few, with an index
    if chosen.due_before is not None:
        wanted = wanted.where(DeletionRequest.due_at < chosen.due_before)
    if chosen.dataset is not None:
        wanted = wanted.where(shares.about(_dataset(session, chosen.dataset)))
    if chosen.model is not None:
        concerned = select(Erasure.request_id).where(
            Erasure.model_id == _model(session, chosen.model)
        )
        wanted = wanted.where(DeletionRequest.id.in_(concerned))
    return [describe(request, name) for request, name in session.execute(wanted)]


def events(
    session: Session, request_id: str, *, after: int | None, limit: int
) -> Sequence[AuditEvent]:
    """Return the audit lines about a request, oldest first, from after a number on.

    The claim of a batch is one line for all its requests; that of one which failed is not returned.
    """
    batches = session.scalars(
        select(Erasure.batch_id).where(
            Erasure.request_id == request_id, Erasure.batch_id.is_not(None)
        )
    ).all()
    claimed = and_(
        AuditEvent.subject.in_([f"batch:{batch_id}" for batch_id in batches]),
        AuditEvent.action == chain.Action.BATCH_CLAIMED.value,
    )
    about = or_(AuditEvent.subject == f"deletion_request:{request_id}", claimed)
    return session.scalars(
        select(AuditEvent)
        .where(about, AuditEvent.seq > (after or 0))
        .order_by(AuditEvent.seq)
        .limit(limit)
    ).all()


def hold(row: LegalHold) -> dict[str, Any]:
    """Return a legal hold in its public form."""
    return {
        "id": row.id,
        "reason_code": row.reason_code,
        "reason": row.reason,
        "placed_by": row.placed_by,
        "placed_at": canonical.moment(row.placed_at),
        "released_by": row.released_by,
        "released_at": _moment(row.released_at),
        "release_reason": row.release_reason,
    }


def count_open(session: Session, *, up_to: int) -> int:
    """Return how many requests are open; counting stops at ``up_to``."""
    some = select(DeletionRequest.id).where(DeletionRequest.is_open).limit(up_to)
    return int(session.scalar(select(func.count()).select_from(some.subquery())) or 0)


def cancel(session: Session, request_id: str, *, actor: str) -> DeletionRequest:
    """Cancel a request of which no worker has claimed anything."""
    request = _locked(session, request_id)
    _require(
        request,
        RequestStatus.ACCEPTED,
        RequestStatus.AWAITING_APPROVAL,
        rule="only one that no worker has begun can be cancelled",
    )
    _drop_erasures(session, request)
    return _end(session, request, RequestStatus.CANCELLED, None, actor=actor)


def approve(session: Session, request_id: str, *, actor: str, now: datetime) -> DeletionRequest:
    """Approve a large request: from now on it is handled like any other."""
    # The dataset first: no other model may begin to hold the records meanwhile.
    datasets = _datasets(session, get(session, request_id))
    locks.datasets(session, [one.id for one in datasets], locks.Hold.INTAKE)
    request = _locked(session, request_id)
    _require(request, RequestStatus.AWAITING_APPROVAL, rule="it does not wait for approval")
    legal.refuse(session, DeletionRequest.id == request.id)
    models = [model for one in datasets for model in shares.concerned(session, one.id)]
    _require_another(request, models, actor=actor)
    if request.kind == "class":  # policies or models may have changed since it was recorded
        parts.check_methods(session, models)
    expected = now + timedelta(seconds=outlook.seconds_needed(session, models))
    _swap(session, request, RequestStatus.ACCEPTED, status_reason=None, expected_by=expected)
    shares.give(session, request.id, models, now=now)
    _say(session, request, chain.Action.DELETION_REQUEST_APPROVED, actor=actor)
    return request


def deny(
    session: Session,
    request_id: str,
    *,
    because: str | None,
    code: DenialReason = DenialReason.OTHER,
    actor: str,
) -> DeletionRequest:
    """Deny a large request; it ends."""
    request = _locked(session, request_id)
    _require(request, RequestStatus.AWAITING_APPROVAL, rule="it does not wait for approval")
    request.denial_code = code.value
    session.flush()
    return _end(
        session,
        request,
        RequestStatus.DENIED,
        because or "not approved",
        actor=actor,
        because=code.value,
    )


def retry(session: Session, request_id: str, *, actor: str) -> DeletionRequest:
    """Give a request that was put aside a new set of attempts."""
    request = _locked(session, request_id)
    _require(request, RequestStatus.NEEDS_REVIEW, rule="only one that needs review is tried again")
    legal.refuse(session, DeletionRequest.id == request.id)
    _swap(session, request, RequestStatus.PROCESSING, status_reason=None)
    # It keeps a cohort of its own, so that it cannot make other requests' batch fail.
    alone = func.coalesce(Erasure.cohort, ids.new("c"))
    session.execute(
        machines.erasures.update(
            session,
            ErasureStatus.PENDING,
            attempts=0,
            not_before=None,
            batch_id=None,
            cohort=alone,
        )
        .where(Erasure.request_id == request.id, Erasure.status == ErasureStatus.NEEDS_REVIEW)
        .execution_options(synchronize_session=False)
    )
    _say(session, request, chain.Action.DELETION_REQUEST_RETRIED, actor=actor)
    return request


def rows(session: Session, request_id: str) -> list[int]:
    """Return rows of the dataset that a request matched and that were not forgotten before."""
    found = session.execute(naming.records(Record.row, requests=[request_id]))
    return sorted(row for _, row in found)


def _datasets(session: Session, request: DeletionRequest) -> Sequence[Dataset]:
    """Return the datasets that hold, or held, records of the request."""
    if request.dataset_id is not None:
        return [session.get_one(Dataset, request.dataset_id)]
    wanted = select(Dataset).join(RequestDataset, RequestDataset.dataset_id == Dataset.id)
    return session.scalars(
        wanted.where(RequestDataset.request_id == request.id).order_by(Dataset.id)
    ).all()


def _by_dataset(session: Session, request: DeletionRequest) -> list[dict[str, Any]]:
    """Return the request's match in each dataset."""
    if request.dataset_id is not None:
        name = session.get_one(Dataset, request.dataset_id).name
        counts = [(name, request.matched, request.already_forgotten)]
    else:
        counts = [
            (name, matched, forgotten)
            for name, matched, forgotten in session.execute(
                select(Dataset.name, RequestDataset.matched, RequestDataset.already_forgotten)
                .join(Dataset, Dataset.id == RequestDataset.dataset_id)
                .where(RequestDataset.request_id == request.id)
                .order_by(Dataset.name)
            )
        ]
    return [
        {"dataset": name, "matched": matched, "already_forgotten": forgotten}
        for name, matched, forgotten in counts
    ]


def _shares(session: Session, request: DeletionRequest) -> list[dict[str, Any]]:
    found = session.execute(
        select(Erasure, Model.name, Version.number)
        .join(Model, Model.id == Erasure.model_id)
        .outerjoin(Version, Version.id == Erasure.version_id)
        .where(Erasure.request_id == request.id)
        .order_by(Erasure.id)
    )
    return [
        {
            "model": model,
            "status": erasure.status.value,
            "batch": erasure.batch_id,
            "version": number,
            "attempts": erasure.attempts,
            "error": erasure.error,
            "not_before": _moment(erasure.not_before),
            "completed_at": _moment(erasure.completed_at),
        }
        for erasure, model, number in found
    ]


def _legal_holds(session: Session, request: DeletionRequest) -> list[dict[str, Any]]:
    found = session.scalars(
        select(LegalHold).where(LegalHold.request_id == request.id).order_by(LegalHold.id)
    )
    return [hold(one) for one in found]


def _moment(value: datetime | None) -> str | None:
    return None if value is None else canonical.moment(value)


def _locked(session: Session, request_id: str) -> DeletionRequest:
    """Lock one request until this transaction ends, and return its present state."""
    found = locks.requests(session, [request_id])
    return found[0] if found else get(session, request_id)


def _dataset(session: Session, name: str) -> int:
    found = session.scalar(select(Dataset.id).where(Dataset.name == name))
    if found is None:
        raise NotFound("there is no dataset of this name; GET /v1/datasets lists them")
    return found


def _model(session: Session, name: str) -> int:
    found = session.scalar(select(Model.id).where(Model.name == name))
    if found is None:
        raise NotFound("there is no model of this name; GET /v1/models lists them")
    return found


def _require(request: DeletionRequest, *states: RequestStatus, rule: str) -> None:
    if request.status not in states:
        raise Conflict(f"this request is {request.status}: {rule}", state=request.status.value)


def _require_another(request: DeletionRequest, models: Iterable[Model], *, actor: str) -> None:
    """Raise ``SecondPersonNeeded`` if a policy asks for another key than the one that asked."""
    policies = (Policy.model_validate(model.policy) for model in models)
    if actor == f"key:{request.principal}" and any(one.approval.second_person for one in policies):
        raise SecondPersonNeeded(
            "the key that asked for this deletion may not approve it; have another key with "
            "requests:approve do it"
        )


def _drop_erasures(session: Session, request: DeletionRequest) -> None:
    """Cancel every erasure; raise ``AlreadyClaimed`` if a worker has claimed one."""
    session.execute(
        machines.erasures.update(session, ErasureStatus.CANCELLED)
        .where(Erasure.request_id == request.id)
        .execution_options(synchronize_session=False)
    )
    begun = session.scalar(
        select(func.count())
        .select_from(Erasure)
        .where(Erasure.request_id == request.id, Erasure.status != ErasureStatus.CANCELLED)
    )
    if begun:
        raise _claimed()


def _end(
    session: Session,
    request: DeletionRequest,
    status: RequestStatus,
    reason: str | None,
    *,
    actor: str,
    **data: str,
) -> DeletionRequest:
    _swap(session, request, status, status_reason=reason)
    suppressions.lift_request(session, request.id, now=db.now())
    action = {
        RequestStatus.CANCELLED: chain.Action.DELETION_REQUEST_CANCELLED,
        RequestStatus.DENIED: chain.Action.DELETION_REQUEST_DENIED,
    }[status]
    _say(session, request, action, actor=actor, **data)
    return request


def _swap(session: Session, request: DeletionRequest, new: RequestStatus, **values: Any) -> None:
    """Change the state; raise ``AlreadyClaimed`` if it has changed since it was read."""
    check_move(REQUEST_MOVES, request.status, new)
    changed = session.execute(
        machines.requests.update(session, new, **values)
        .where(DeletionRequest.id == request.id, DeletionRequest.status == request.status)
        .returning(DeletionRequest.id)
        .execution_options(synchronize_session=False)
    ).all()
    if not changed:
        raise _claimed()
    session.refresh(request)


def _claimed() -> AlreadyClaimed:
    return AlreadyClaimed("a worker has just begun with this request; it will be completed")


def _say(
    session: Session,
    request: DeletionRequest,
    action: chain.Action,
    *,
    actor: str,
    **data: str,
) -> None:
    chain.append(
        session,
        actor=actor,
        action=action,
        subject=f"deletion_request:{request.id}",
        data={"matched": request.matched, **data},
    )
