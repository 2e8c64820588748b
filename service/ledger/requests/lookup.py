"""Deletion requests as they are read: one, a list of them, their audit lines and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.ledger.audit import canonical, chain
from service.ledger.database.states import REQUEST_ENDS, RequestStatus
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
from service.ledger.obligations import shares
from service.ledger.requests.descriptions import describe, waits_for
from service.ledger.selection import naming


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


def count_open(session: Session, *, up_to: int) -> int:
    """Return how many requests are open; counting stops at ``up_to``."""
    some = select(DeletionRequest.id).where(DeletionRequest.is_open).limit(up_to)
    return int(session.scalar(select(func.count()).select_from(some.subquery())) or 0)


def rows(session: Session, request_id: str) -> list[int]:
    """Return rows of the dataset that a request matched and that were not forgotten before."""
    found = session.execute(naming.records(Record.row, requests=[request_id]))
    return sorted(row for _, row in found)


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


def _legal_holds(session: Session, request: DeletionRequest) -> list[dict[str, Any]]:
    found = session.scalars(
        select(LegalHold).where(LegalHold.request_id == request.id).order_by(LegalHold.id)
    )
    return [hold(one) for one in found]


def _moment(value: datetime | None) -> str | None:
    return None if value is None else canonical.moment(value)


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
