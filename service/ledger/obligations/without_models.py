"""Requests that concern no model: their records are excluded here, since no batch will do it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, CompoundSelect, and_, exists, or_, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain, machines
from service.ledger.database import db, locks
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables import (
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestDataset,
    RequestRecord,
)
from service.ledger.obligations import shares
from service.ledger.selection import exclusions
from service.ledger.selection.naming import Names


def datasets(now: datetime) -> CompoundSelect[int | None]:
    """Select the ids of datasets with requests that no model has to do.

    No batch will exclude their records. A request over every dataset counts in each one that has no
    model, whether or not others have one; not before the undo window of the others has passed.
    """
    of_one = select(DeletionRequest.dataset_id).where(_without_models())
    of_every = (
        select(RequestDataset.dataset_id)
        .join(DeletionRequest, DeletionRequest.id == RequestDataset.request_id)
        .where(_without_models_here(now))
    )
    waiting = (
        select(Model.dataset_id)
        .join(Erasure, Erasure.model_id == Model.id)
        .where(shares.needless())
    )
    return of_one.union(of_every, waiting)


def exclude(session: Session, dataset_id: int, *, now: datetime, actor: str) -> list[str]:
    """Exclude the records of requests that concern no model of a dataset from all training.

    Return the requests' ids.
    """
    locks.dataset(session, dataset_id, locks.Hold.REVISION)
    shares.drop_needless(session, dataset_id)
    here = exists().where(
        RequestDataset.request_id == DeletionRequest.id,
        RequestDataset.dataset_id == dataset_id,
        _without_models_here(now),
    )
    requests = session.scalars(
        select(DeletionRequest)
        .where(or_(and_(DeletionRequest.dataset_id == dataset_id, _without_models()), here))
        .order_by(DeletionRequest.id)
        # A cancellation must come before or after, not in between.
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    begun = [request for request in requests if request.status == RequestStatus.ACCEPTED]
    for request in begun:
        machines.requests.move(request, RequestStatus.PROCESSING)
    session.flush()
    chain.append_many(
        session,
        actor=actor,
        lines=[
            chain.Line(chain.Action.DELETION_REQUEST_EXCLUDED, f"deletion_request:{one.id}")
            for one in begun
        ],
    )
    found = [request.id for request in requests]
    if found:
        exclusions.exclude(session, dataset_id, Names.of(requests))
    return found


def _without_models() -> ColumnElement[bool]:
    """Return SQL: ``DeletionRequest`` is accepted, of one dataset, and concerns no model."""
    return and_(
        DeletionRequest.is_open,
        db.among(DeletionRequest.status, RequestStatus.ACCEPTED),
        DeletionRequest.legal_hold_id.is_(None),
        DeletionRequest.dataset_id.is_not(None),
        ~exists().where(Erasure.request_id == DeletionRequest.id),
    )


def _without_models_here(now: datetime) -> ColumnElement[bool]:
    """Return SQL: ``DeletionRequest`` waits here and concerns no model of ``RequestDataset``."""
    share_here = exists().where(
        Erasure.request_id == DeletionRequest.id,
        Model.id == Erasure.model_id,
        Model.dataset_id == RequestDataset.dataset_id,
    )
    not_excluded = exists().where(
        RequestRecord.request_id == DeletionRequest.listed_by,
        RequestRecord.dataset_id == RequestDataset.dataset_id,
        Record.dataset_id == RequestRecord.dataset_id,
        Record.row == RequestRecord.row,
        Record.excluded_revision.is_(None),
    )
    # Other requests may have excluded all its records: it must still complete.
    stuck = and_(
        db.among(DeletionRequest.status, RequestStatus.ACCEPTED),
        ~exists().where(Erasure.request_id == DeletionRequest.id),
    )
    in_undo_window = exists().where(
        Erasure.request_id == DeletionRequest.id,
        db.among(Erasure.status, ErasureStatus.PENDING),
        Erasure.attempts == 0,
        ~shares.may_begin(now),
    )
    return and_(
        DeletionRequest.is_open,
        db.among(DeletionRequest.status, RequestStatus.ACCEPTED, RequestStatus.PROCESSING),
        DeletionRequest.legal_hold_id.is_(None),
        ~share_here,
        ~in_undo_window,
        or_(not_excluded, stuck),
    )
