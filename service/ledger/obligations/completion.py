"""The completion of requests, once their erasures are done and their raw rows erased."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, exists, literal_column, or_, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain, machines
from service.ledger.database import db, locks
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    DeletionRequest,
    Erasure,
    Exclusion,
    Record,
    RequestRecord,
)
from service.ledger.obligations import raw_rows, shares
from service.ledger.selection import naming


def settle(session: Session, *, now: datetime, actor: str) -> list[str]:
    """Complete every request whose erasures are all done and whose raw rows are all erased."""
    unfinished = exists().where(
        Erasure.request_id == DeletionRequest.id,
        shares.is_open_of_request(),
    )
    listed = exists().where(naming.lists(), Record.erased_at.is_(None))
    of_class = exists().where(
        naming.of_class(),
        Exclusion.dataset_id == Record.dataset_id,
        Exclusion.row == Record.row,
        Exclusion.standing,
    )
    # Rows that are not erased are scanned only for requests for a class.
    gone = or_(DeletionRequest.kind != literal_column("'class'"), ~of_class)
    # Run at each poll; without bound values it is planned once.
    processing = db.among(DeletionRequest.status, RequestStatus.PROCESSING)
    free = DeletionRequest.legal_hold_id.is_(None)
    ready = (DeletionRequest.is_open, processing, free, ~unfinished, ~listed, gone)
    seen = session.execute(
        select(DeletionRequest.id, DeletionRequest.dataset_id)
        .where(*ready)
        .limit(literal_column(str(raw_rows.ROWS_AT_ONCE)))
    ).all()
    if not seen:
        return []
    # A first promotion meanwhile would give a completed request an erasure.
    locks.datasets(session, _datasets_of(session, seen), locks.Hold.INTAKE)
    locked = (
        select(DeletionRequest.id)
        .where(DeletionRequest.id.in_([request_id for request_id, _ in seen]), *ready)
        .order_by(DeletionRequest.id)
        .with_for_update(key_share=True, skip_locked=True)
    )
    ended = session.scalars(
        machines.requests.update(
            session, RequestStatus.COMPLETED, status_reason=None, completed_at=now
        )
        .where(DeletionRequest.id.in_(locked))
        .returning(DeletionRequest)
        # Refresh the rows that the session has loaded.
        .execution_options(synchronize_session=False, populate_existing=True)
    ).all()
    done = sorted(request.id for request in ended)
    if not done:  # another worker completes them at this moment
        machines.requests.met_nothing(session)
        return []
    chain.append_many(
        session,
        actor=actor,
        lines=[
            chain.Line(chain.Action.DELETION_REQUEST_COMPLETED, f"deletion_request:{request_id}")
            for request_id in done
        ],
    )
    return done


def _datasets_of(session: Session, requests: Sequence[Row[str, int | None]]) -> set[int]:
    """Return ids of datasets with records of these requests (id, dataset or None for all)."""
    found = {dataset_id for _, dataset_id in requests if dataset_id is not None}
    everywhere = [request_id for request_id, dataset_id in requests if dataset_id is None]
    if everywhere:
        found |= set(
            session.scalars(
                select(RequestRecord.dataset_id)
                .join(DeletionRequest, DeletionRequest.listed_by == RequestRecord.request_id)
                .where(DeletionRequest.id.in_(everywhere))
                .distinct()
            )
        )
    return found
