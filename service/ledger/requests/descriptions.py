"""Deletion requests in their public form: what identified the person is not in it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from service.ledger.audit import canonical
from service.ledger.database.tables import DeletionRequest


def describe(request: DeletionRequest, dataset: str | None) -> dict[str, Any]:
    """Return a request in its public form; without ``dataset`` it is about every one."""
    return {
        "id": request.id,
        "dataset": dataset,
        "kind": request.kind,
        "status": request.status.value,
        "status_reason": _reason(request),
        "label": request.label,
        "reason": request.reason,
        "client_reference": request.client_reference,
        "matched": request.matched,
        "already_forgotten": request.already_forgotten,
        "not_found": request.not_found,
        "complete_match": complete_match(request),
        "created_at": canonical.moment(request.created_at),
        "due_at": canonical.moment(request.due_at),
        "expected_by": canonical.moment(request.expected_by),
        "completed_at": _moment(request.completed_at),
    }


def complete_match(request: DeletionRequest) -> bool:
    """Return whether everything that was asked for was found: False is a reason to look again."""
    return request.not_found == 0 and request.matched + request.already_forgotten > 0


def _reason(request: DeletionRequest) -> str | None:
    """Return why a request is in its state; what was not found stays said to its end and after."""
    found = request.matched + request.already_forgotten
    if found == 0 or request.not_found == 0:
        return request.status_reason
    named, missing = found + request.not_found, request.not_found
    partly = f"{missing} of {named} record ids name{'s' * (missing == 1)} nothing in this dataset"
    return partly if request.status_reason is None else f"{partly}; {request.status_reason}"


def _moment(value: datetime | None) -> str | None:
    return None if value is None else canonical.moment(value)
