"""Legal holds: what a request names is kept, for a court or an authority, until it is released.

A hold is checked where work begins (the claim of a batch), where it is recorded (the batch that was
under way loses its lease when the hold is placed, so its result is refused), before raw rows are
overwritten, and by withdrawals. It is refused while a worker overwrites rows that the request
names. What was destroyed before it was placed cannot be brought back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.audit import canonical, chain
from service.ledger.batches import execution, holds, leases
from service.ledger.database import db, ids, locks
from service.ledger.database.states import (
    REQUEST_ENDS,
    BatchStatus,
    ErasureStatus,
)
from service.ledger.database.tables import (
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    LegalHold,
    Model,
    Record,
    RequestDataset,
    Suppression,
)
from service.ledger.obligations import shares
from service.ledger.requests import lookup, suppressions
from service.ledger.selection import naming

_STOPPED = "a legal hold was placed on one of its requests"


class HoldReason(StrEnum):
    """Why data must be kept although their deletion was requested."""

    LEGAL_CLAIMS = "legal_claims"  # GDPR 17(3)(e): claims are established, exercised or defended
    LEGAL_OBLIGATION = "legal_obligation"  # GDPR 17(3)(b)
    AUTHORITY_ORDER = "authority_order"  # a court or an authority asks for them


def place(
    session: Session,
    request_id: str,
    *,
    code: HoldReason,
    reason: str,
    actor: str,
    now: datetime,
    workers_stopped: bool = False,
) -> DeletionRequest:
    """Place a hold on an open request, and stop the batches that are under way with it.

    From then on nothing of it is overwritten: refused while a worker overwrites rows that it names,
    unless the workers are known to be stopped.
    """
    lookup.get(session, request_id)
    under_way = _batches(session, request_id)
    # Leases come before all other locks; whoever computes under one can record nothing more.
    for model_id in sorted(one.model_id for one in under_way):
        leases.revoke(session, leases.of_model(model_id), now=now)
    its_datasets = _datasets(session, session.get_one(DeletionRequest, request_id))
    locks.datasets(session, [one.id for one in its_datasets], locks.Hold.REVISION)
    concerned = session.scalars(
        select(Erasure.model_id).where(
            Erasure.request_id == request_id, shares.is_open_of_request()
        )
    )
    models = {one.id: one for one in locks.models(session, concerned)}
    if {one.id for one in _batches(session, request_id)} != {one.id for one in under_way}:
        raise Conflict("a worker has just begun with this request or ended it; repeat this")
    members = [
        share.request_id for one in under_way for share in execution.erasures_of(session, one)
    ]
    locks.requests(session, [request_id, *members])
    request = session.get_one(DeletionRequest, request_id)
    if request.status in REQUEST_ENDS:
        raise Conflict(f"this request is {request.status}: there is nothing left to hold")
    if request.legal_hold_id is not None:
        raise Conflict("this request is under a legal hold already")
    if not workers_stopped and _is_overwritten(session, request):
        raise Conflict(
            "a worker is overwriting rows that it names at this moment; repeat this to keep what "
            "is left"
        )
    if its_datasets and all(one.withdrawn_at is not None for one in its_datasets):
        raise Conflict(
            "its dataset was withdrawn: workers overwrite every row of it, and a hold would keep "
            "nothing"
        )
    for batch in under_way:
        _stop(session, models[batch.model_id], batch, actor=actor, now=now)
    hold = LegalHold(
        id=ids.new("lh"),
        request_id=request_id,
        reason_code=code.value,
        reason=reason,
        placed_by=actor,
        placed_at=now,
    )
    session.add(hold)
    request.legal_hold_id = hold.id
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DELETION_REQUEST_LEGAL_HOLD_PLACED,
        subject=f"deletion_request:{request_id}",
        data={"because": code.value, "batches": [one.id for one in under_way]},
    )
    return request


def release(
    session: Session, request_id: str, *, reason: str, actor: str, now: datetime
) -> DeletionRequest:
    """Release the hold; the request goes on where it was."""
    found = locks.requests(session, [request_id])
    request = found[0] if found else lookup.get(session, request_id)
    if request.legal_hold_id is None:
        raise Conflict("this request is under no legal hold")
    hold = session.get_one(LegalHold, request.legal_hold_id)
    hold.released_by, hold.released_at, hold.release_reason = actor, now, reason
    request.legal_hold_id = None
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DELETION_REQUEST_LEGAL_HOLD_RELEASED,
        subject=f"deletion_request:{request_id}",
        data={},
    )
    return request


def listing(
    session: Session, *, in_force: bool, after: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return legal holds in their public form, oldest first, from after an id on.

    ``in_force``: only those that were not released.
    """
    wanted = (
        select(LegalHold, DeletionRequest)
        .join(DeletionRequest, DeletionRequest.id == LegalHold.request_id)
        .order_by(LegalHold.id)
        .limit(limit)
    )
    if in_force:
        wanted = wanted.where(LegalHold.released_at.is_(None))  # few, with an index
    if after is not None:
        wanted = wanted.where(LegalHold.id > after)
    return [
        {
            **lookup.hold(hold),
            "request": request.id,
            "request_status": request.status.value,
            "due_at": canonical.moment(request.due_at),
        }
        for hold, request in session.execute(wanted)
    ]


def _datasets(session: Session, request: DeletionRequest) -> Sequence[Dataset]:
    """Return the datasets with rows of the request.

    A withdrawal locks the request first, so none begins before the hold is placed.
    """
    everywhere = select(RequestDataset.dataset_id).where(RequestDataset.request_id == request.id)
    theirs = or_(Dataset.id == request.dataset_id, Dataset.id.in_(everywhere))
    return session.scalars(select(Dataset).where(theirs)).all()


def _is_overwritten(session: Session, request: DeletionRequest) -> bool:
    """Return whether a worker has begun to overwrite rows that the request names.

    They are suppressed by their content just before, under a lock on the dataset.
    """
    begun = exists().where(
        Suppression.dataset_id == Record.dataset_id,
        Suppression.row == Record.row,
        Suppression.kind == suppressions.Kind.ROW,
    )
    mine = DeletionRequest.id == request.id
    named = naming.records(Record.row, Record.erased_at.is_(None) & begun, requests=mine)
    return any(goes for _, _, goes in session.execute(named))


def _batches(session: Session, request_id: str) -> Sequence[Batch]:
    """Return the running and held batches with an erasure of the request, by model."""
    return session.scalars(
        select(Batch)
        .join(Erasure, Erasure.batch_id == Batch.id)
        .where(
            Erasure.request_id == request_id,
            db.among(Erasure.status, ErasureStatus.CLAIMED),
            db.among(Batch.status, BatchStatus.RUNNING, BatchStatus.HELD),
        )
        .order_by(Batch.model_id)
        .execution_options(populate_existing=True)
    ).all()


def _stop(session: Session, model: Model, batch: Batch, *, actor: str, now: datetime) -> None:
    if batch.status == BatchStatus.HELD:
        holds.release(session, model, batch, because=_STOPPED, actor=actor, now=now)
    else:
        execution.stop(session, batch, because=_STOPPED, actor=actor, now=now)
