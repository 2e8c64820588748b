"""What was asked, in an audit report: the requests and their records."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import DeletionRequest, Record, RequestDataset
from service.ledger.reports import report_loaded
from service.ledger.selection import naming
from service.ledger.selection.digests import Digester


def asked(session: Session, loaded: report_loaded.Loaded, digester: Digester) -> dict[str, Any]:
    """Return the requests, digests of their records here, and how many of these are overwritten."""
    ids = [request.id for request in loaded.requests]
    rows = session.execute(
        naming.records(
            Record.record_id,
            Record.row,
            Record.erased_at,
            requests=ids,
            # Of a request over every dataset, only its records in this one.
            dataset_id=loaded.dataset.id,
        )
    ).all()
    forgotten_before = _forgotten_before(session, loaded)
    named: dict[str, list[str]] = {request_id: [] for request_id in ids}
    overwritten: dict[int, datetime | None] = {}
    for request_id, record_id, row, erased_at in rows:
        named[request_id].append(digester.record(loaded.dataset.name, record_id))
        overwritten[row] = erased_at
    moments = [moment for moment in overwritten.values() if moment is not None]
    return {
        "requests": [
            _request(item, sorted(named[item.id]), forgotten_before.get(item.id))
            for item in loaded.requests
        ],
        "counts": {"requests": len(ids), "records": len(overwritten)},
        "raw_rows": {
            "records": len(overwritten),
            "overwritten": len(moments),
            "last_at": max(moments, default=None),
        },
    }


def _forgotten_before(session: Session, loaded: report_loaded.Loaded) -> dict[str, int]:
    """Return, per request over every dataset, how many records here were forgotten before."""
    rows = session.execute(
        select(RequestDataset.request_id, RequestDataset.already_forgotten).where(
            RequestDataset.request_id.in_([request.id for request in loaded.requests]),
            RequestDataset.dataset_id == loaded.dataset.id,
        )
    )
    return dict(rows.all())


def _request(
    request: DeletionRequest, records: list[str], forgotten_before: int | None
) -> dict[str, Any]:
    """Return a request's part in this dataset; ``forgotten_before`` None: it has no other part."""
    alone = forgotten_before is None
    return {
        "id": request.id,
        "kind": request.kind,
        "label": request.label,
        "status": request.status,
        "created_at": request.created_at,
        "due_at": request.due_at,
        "completed_at": request.completed_at,
        "matched": request.matched if alone else len(records),
        "already_forgotten": request.already_forgotten if alone else forgotten_before,
        "not_found": request.not_found,
        "records": records,
    }
