"""Deletion requests in their public form, without what identified the person."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, ErasureStatus
from service.ledger.database.tables import Batch, DeletionRequest, Erasure, Model, Version
from service.ledger.selection.regulations import Regulation


def describe(
    request: DeletionRequest, dataset: str | None, waits_for: str | None = None
) -> dict[str, Any]:
    """Return a request in its public form; ``dataset`` None: it is about every dataset."""
    return {
        "id": request.id,
        "dataset": dataset,
        "kind": request.kind,
        "status": request.status.value,
        "status_reason": "; ".join(filter(None, (_reason(request), waits_for))) or None,
        "label": request.label,
        "reason": request.reason,
        "client_reference": request.client_reference,
        "matched": request.matched,
        "already_forgotten": request.already_forgotten,
        "not_found": request.not_found,
        "complete_match": complete_match(request),
        "created_at": canonical.moment(request.created_at),
        "due_at": canonical.moment(request.due_at),
        "regulation": request.regulation or Regulation.GDPR.value,
        "extensions": request.extensions or 0,
        "extension_reason": request.extension_reason,
        "denial_code": request.denial_code,
        "legal_hold": request.legal_hold_id is not None,
        "expected_by": canonical.moment(request.expected_by),
        "completed_at": _moment(request.completed_at),
    }


def waits_for(session: Session, request: DeletionRequest) -> str | None:
    """Return what the request waits for if a model holds an earlier batch; None: nothing."""
    held = session.execute(
        select(Model.name, Version.number, Batch.held_until)
        .join(Erasure, Erasure.model_id == Model.id)
        .join(Batch, Batch.model_id == Model.id)
        .join(Version, Version.id == Batch.version_id)
        .where(
            Erasure.request_id == request.id,
            db.among(Erasure.status, ErasureStatus.PENDING),
            db.among(Batch.status, BatchStatus.HELD),
        )
        .order_by(Model.id)
    )
    said = [
        f"model {name} forgets it once its version {number}, which is held, is approved or goes "
        f"live by itself at {canonical.moment(until)}"
        for name, number, until in held
        if until is not None
    ]
    return "; ".join(said) or None


def complete_match(request: DeletionRequest) -> bool:
    """Return whether everything that was requested was found; if not, the ids should be checked."""
    return request.not_found == 0 and request.matched + request.already_forgotten > 0


def _reason(request: DeletionRequest) -> str | None:
    """Return why a request is in its state; also what was not found, in every state."""
    found = request.matched + request.already_forgotten
    if found == 0 or request.not_found == 0:
        return request.status_reason
    named, missing = found + request.not_found, request.not_found
    partly = f"{missing} of {named} record ids name{'s' * (missing == 1)} nothing in this dataset"
    return partly if request.status_reason is None else f"{partly}; {request.status_reason}"


def _moment(value: datetime | None) -> str | None:
    return None if value is None else canonical.moment(value)
