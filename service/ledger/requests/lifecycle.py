"""Deletion requests after recording: cancel, approve, deny, retry.

Recording is in ``intake`` and reading in ``lookup``; what workers change (claimed, completed, put
aside) is in ``erasures``, ``execution`` and ``completion``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import Conflict, Forbidden
from service.ledger.audit import chain, machines
from service.ledger.database import db, ids, locks
from service.ledger.database.states import REQUEST_MOVES, ErasureStatus, RequestStatus, check_move
from service.ledger.database.tables import Dataset, DeletionRequest, Erasure, Model, RequestDataset
from service.ledger.obligations import legal, shares
from service.ledger.registry.policy import Policy
from service.ledger.requests import lookup, outlook, parts, suppressions


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


def cancel(session: Session, request_id: str, *, actor: str) -> DeletionRequest:
    """Cancel a request of which no worker has claimed anything; again, it changes nothing."""
    request = _locked(session, request_id)
    if request.status == RequestStatus.CANCELLED:
        return request  # the answer to the first call may have been lost
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
    datasets = _datasets(session, lookup.get(session, request_id))
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
    """Deny a large request; it ends. Denying it again for the same reason changes nothing."""
    request = _locked(session, request_id)
    if request.status == RequestStatus.DENIED and request.denial_code == code.value:
        return request
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


def _datasets(session: Session, request: DeletionRequest) -> Sequence[Dataset]:
    """Return the datasets that hold, or held, records of the request."""
    if request.dataset_id is not None:
        return [session.get_one(Dataset, request.dataset_id)]
    wanted = select(Dataset).join(RequestDataset, RequestDataset.dataset_id == Dataset.id)
    return session.scalars(
        wanted.where(RequestDataset.request_id == request.id).order_by(Dataset.id)
    ).all()


def _locked(session: Session, request_id: str) -> DeletionRequest:
    """Lock one request until this transaction ends, and return its present state."""
    found = locks.requests(session, [request_id])
    return found[0] if found else lookup.get(session, request_id)


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
