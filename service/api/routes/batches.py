"""Batches over HTTP: which erasures were unlearned together, and with what result."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, Field

from service.api import auth, bodies, deps, pagination, problems
from service.ledger.database.states import BatchStatus
from service.ledger.database.tables import Batch, Model
from service.ledger.registry import models
from service.ledger.reports import history

router = bodies.router("/v1/models/{model}/batches", tag="models")

Reading = Annotated[auth.Principal, auth.require("models:read")]
BatchId = Annotated[str, Path(pattern=r"^b_[0-9a-z]{26}$", description="id of a batch")]


class BatchView(BaseModel):
    """Erasures of one model that are unlearned together."""

    id: str
    model: str
    status: BatchStatus
    kind: str = Field(description="records or class")
    records: int = Field(description="records of the base version that it forgets")
    base_version: int | None
    version: int | None = Field(description="number of the version that it made")
    method: dict[str, Any] | None = Field(description="requested by run-now; null: the policy's")
    seed: int
    attempts: int
    error: str | None
    created_at: datetime
    held_until: datetime | None = Field(
        description="of a held batch: when its version goes live by itself"
    )
    finished_at: datetime | None


class BatchDetail(BatchView):
    """A batch with the requests that it serves."""

    deletion_requests: list[str]


@router.get(
    "",
    response_model=pagination.Page[BatchView],
    responses=problems.responses(404),
    summary="List the model's batches, newest first",
)
def listing(model: deps.Name, _: Reading, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return a page of the model's batches."""
    row = models.get(session, model)
    found = history.batches(session, row, before=paging.after(str), limit=paging.fetch)
    page = paging.page(found, key=lambda batch: batch.id)
    return {**page, "items": _views(session, row, page["items"])}


@router.get(
    "/{batch}",
    response_model=BatchDetail,
    responses=problems.responses(404),
    summary="Show a batch",
)
def show(model: deps.Name, batch: BatchId, _: Reading, session: deps.Reader) -> Any:
    """Return a batch with its deletion requests."""
    row = models.get(session, model)
    found = history.batch(session, row, batch)
    shown = _views(session, row, [found])[0]
    return {**shown, "deletion_requests": history.requests(session, found.id)}


def _views(session: deps.Session, model: Model, found: Sequence[Batch]) -> list[dict[str, Any]]:
    records = history.records(session, [row.id for row in found])
    known = history.numbers(
        session, [one for row in found for one in (row.base_version_id, row.version_id)]
    )
    return [
        {
            "id": row.id,
            "model": model.name,
            "status": row.status,
            "kind": row.kind,
            "records": records.get(row.id, 0),
            "base_version": known.get(row.base_version_id),
            "version": known.get(row.version_id or 0),
            "method": row.method,
            "seed": row.seed,
            "attempts": row.attempts,
            "error": row.error,
            "created_at": row.created_at,
            "held_until": row.held_until,
            "finished_at": row.finished_at,
        }
        for row in found
    ]
