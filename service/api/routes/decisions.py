"""Decisions about deletion requests over HTTP: cancel, retry, approve, deny, extend, hold."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Response
from sqlalchemy.orm import Session

from service.api import auth, bodies, deps, problems
from service.api.routes import deletion_requests_schemas as schemas
from service.api.routes.deletion_requests import RequestId, Writer
from service.ledger.database import db
from service.ledger.database.tables import DeletionRequest
from service.ledger.requests import deadlines, legal_holds, lifecycle, lookup

router = bodies.router("/v1/deletion-requests", tag="deletion requests")

Approver = Annotated[auth.Principal, auth.require("requests:approve")]


@router.delete(
    "/{request_id:segment}",
    response_model=schemas.DeletionRequestDetail,
    responses=problems.responses(404, 409),
    summary="Cancel a deletion request",
)
def cancel(
    session: deps.Session,
    principal: Writer,
    request_id: RequestId,
) -> Response:
    """Cancel the request, which is possible until a worker begins with it."""
    row = lifecycle.cancel(session, request_id, actor=principal.actor)
    return _committed(session, row)


@router.post(
    "/{request_id:segment}:retry",
    response_model=schemas.DeletionRequestDetail,
    responses=problems.responses(404, 409),
    summary="Try a request that needs review again",
)
def retry(
    session: deps.Session,
    principal: Writer,
    wake: deps.Wake,
    request_id: RequestId,
) -> Response:
    """Give the request a new set of attempts, in batches apart from other requests."""
    row = lifecycle.retry(session, request_id, actor=principal.actor)
    answer = _committed(session, row)
    wake.deletions()
    return answer


@router.post(
    "/{request_id:segment}:approve",
    response_model=schemas.DeletionRequestDetail,
    responses=problems.responses(404, 409),
    summary="Approve a large request",
)
def approve(
    session: deps.Session,
    principal: Approver,
    wake: deps.Wake,
    request_id: RequestId,
) -> Response:
    """Approve a request that the policy's approval limits hold back."""
    row = lifecycle.approve(session, request_id, actor=principal.actor, now=db.now())
    answer = _committed(session, row)
    wake.deletions()
    return answer


@router.post(
    "/{request_id:segment}:deny",
    response_model=schemas.DeletionRequestDetail,
    responses=problems.responses(404, 409, 413, 415),
    summary="Deny a large request",
)
def deny(
    session: deps.Session,
    principal: Approver,
    request_id: RequestId,
    # No body means the same as an empty object.
    body: Annotated[schemas.Denial, Body(default_factory=schemas.Denial)],
) -> Response:
    """Deny a request that the policy's approval limits hold back. It ends here."""
    row = lifecycle.deny(
        session, request_id, because=body.reason, code=body.reason_code, actor=principal.actor
    )
    return _committed(session, row)


@router.post(
    "/{request_id:segment}:extend",
    response_model=schemas.DeletionRequestDetail,
    responses=problems.responses(404, 409, 413, 415),
    summary="Extend the due date of a request",
)
def extend(
    session: deps.Session,
    principal: Approver,
    request_id: RequestId,
    body: schemas.Extension,
) -> Response:
    """Move the due date by one or more periods of the request's regulation, before it has passed.

    The person has to be told of the extension and its reason before the present due date.
    """
    row = deadlines.extend(
        session,
        request_id,
        periods=body.periods,
        because=body.reason_code,
        reason=body.reason,
        actor=principal.actor,
        now=db.now(),
    )
    return _committed(session, row)


@router.post(
    "/{request_id:segment}:hold",
    response_model=schemas.DeletionRequestDetail,
    responses=problems.responses(404, 409, 413, 415),
    summary="Place a legal hold on a request",
)
def hold(
    session: deps.Session,
    principal: Approver,
    request_id: RequestId,
    body: schemas.Placing,
) -> Response:
    """Stop the request: no model unlearns its records and no raw row of them is overwritten.

    A batch that is under way with it is stopped; its other requests go into the next one. What
    would destroy the records in another way is answered 409 until the hold is released.
    """
    row = legal_holds.place(
        session,
        request_id,
        code=body.reason_code,
        reason=body.reason,
        actor=principal.actor,
        now=db.now(),
    )
    return _committed(session, row)


@router.post(
    "/{request_id:segment}:release-hold",
    response_model=schemas.DeletionRequestDetail,
    responses=problems.responses(404, 409, 413, 415),
    summary="Release the legal hold on a request",
)
def release_hold(
    session: deps.Session,
    principal: Approver,
    wake: deps.Wake,
    request_id: RequestId,
    body: schemas.Releasing,
) -> Response:
    """Let the request go on; its due date has not moved."""
    row = legal_holds.release(
        session, request_id, reason=body.reason, actor=principal.actor, now=db.now()
    )
    answer = _committed(session, row)
    wake.deletions()
    return answer


def _committed(session: Session, row: DeletionRequest) -> Response:
    described = lookup.detail(session, row)
    session.commit()
    return bodies.answer(described)
