"""Shares: which models must forget what a request names, each with an erasure of its own.

A model that was never trained holds nothing and gets no share: its first training leaves out what
is excluded by then. A running training has seen what is not excluded yet. So shares are given out
at three moments: when a request is recorded or approved, when a training starts, and when a model
goes live for the first time. Each takes a lock on the dataset (``locks.Hold``) that excludes the
other two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, exists, func, insert, or_, select
from sqlalchemy.orm import Session, aliased

from service.ledger.database import db, locks, retries
from service.ledger.database.states import ErasureStatus, RequestStatus, RunStatus, VersionStatus
from service.ledger.database.tables import (
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestDataset,
    TrainingRun,
    Version,
)
from service.ledger.selection import naming

#: States of erasures that are still to be done.
OPEN = (ErasureStatus.PENDING, ErasureStatus.CLAIMED, ErasureStatus.NEEDS_REVIEW)
#: All the others.
CLOSED = (ErasureStatus.COMPLETED, ErasureStatus.CANCELLED)

#: States of requests for which a model that starts later gets a share.
_WANTING = (RequestStatus.ACCEPTED, RequestStatus.PROCESSING)

#: The longest undo window that a policy may ask for.
LONGEST_UNDO = timedelta(days=14)

#: Requests in one statement, which takes a limited number of values.
REQUESTS_AT_ONCE = 10_000


def is_open() -> ColumnElement[bool]:
    """Return SQL: the erasure is still to be done."""
    return and_(Erasure.is_open)


def is_open_of_request() -> ColumnElement[bool]:
    """Return SQL: the same, for erasures that are looked up by their request.

    It is written as a negation, so that the index on open erasures cannot be used. The planner's
    statistics call that index nearly empty, but when they are old it may hold all that was closed
    since: scanning it for each of many requests has taken a minute instead of a second.
    """
    return ~db.among(Erasure.status, *CLOSED)


def may_begin(now: datetime) -> ColumnElement[bool]:
    """Return SQL: the undo window of the erasure, or the pause after its failure, has passed.

    One that was never attempted waits for its undo window, which is longer than any pause.
    """
    return or_(
        retries.may_begin(Erasure.not_before, now, longest=LONGEST_UNDO),
        and_(Erasure.attempts > 0, retries.may_begin(Erasure.not_before, now)),
    )


def concerned(session: Session, dataset_id: int) -> Sequence[Model]:
    """Return the dataset's models that hold records or are being trained on them, by id.

    The caller has locked the dataset.
    """
    return session.scalars(_CONCERNED, {"dataset_id": dataset_id}).all()


def rows(
    request_id: str, models: Iterable[Model], *, now: datetime, since: datetime | None = None
) -> list[dict[str, Any]]:
    """Return the request's erasure on each model as a row to insert.

    None is begun before the undo window has passed that began ``since``, by default now.
    """
    models = list(models)
    window = max((_undo_seconds(model) for model in models), default=0.0)
    not_before = None if window == 0 else (since or now) + timedelta(seconds=window)
    return [
        {
            "request_id": request_id,
            "model_id": model.id,
            "status": ErasureStatus.PENDING,
            "attempts": 0,
            "not_before": not_before,
            "created_at": now,
        }
        for model in models
    ]


def give(session: Session, request_id: str, models: Iterable[Model], *, now: datetime) -> None:
    """Insert the request's erasure on each model."""
    made = rows(request_id, models, now=now)
    if made:
        session.execute(insert(Erasure), made)


def join(session: Session, model: Model, *, data_revision: int, now: datetime) -> int:
    """Give the model an erasure for each open request for what it holds; return how many.

    It was trained, or is being trained, on what was not excluded at this revision of the dataset.
    The caller has locked the dataset for publication, and no erasure yet.
    """
    inside = and_(
        Record.dataset_id == model.dataset_id,
        or_(Record.excluded_revision.is_(None), Record.excluded_revision > data_revision),
    )
    held = or_(
        exists().where(naming.lists(), inside),
        exists().where(naming.of_class(), inside),
    )
    has_share = exists().where(
        Erasure.request_id == DeletionRequest.id, Erasure.model_id == model.id
    )
    missing = session.scalars(
        select(DeletionRequest.id)
        .where(
            about(model.dataset_id),
            DeletionRequest.is_open,
            DeletionRequest.status.in_(_WANTING),
            ~has_share,
            held,
        )
        .order_by(DeletionRequest.id)
    ).all()
    given = 0
    for first in range(0, len(missing), REQUESTS_AT_ONCE):
        # Locked, since a concurrent cancellation would not see the new erasure.
        some = locks.requests(session, missing[first : first + REQUESTS_AT_ONCE])
        begins = _undo_ends(session, [one.id for one in some])
        made = [
            {**share, "not_before": _latest(share["not_before"], begins.get(one.id))}
            for one in some
            if one.status in _WANTING
            for share in rows(one.id, [model], now=now, since=one.created_at)
        ]
        if made:
            session.execute(insert(Erasure), made)
        given += len(made)
    return given


def _undo_ends(session: Session, requests: Sequence[str]) -> dict[str, datetime | None]:
    """Return when the undo windows of requests end that have shares on other models."""
    found = session.execute(
        select(Erasure.request_id, func.max(Erasure.not_before))
        .where(
            Erasure.request_id.in_(requests),
            db.among(Erasure.status, ErasureStatus.PENDING),
            Erasure.attempts == 0,
        )
        .group_by(Erasure.request_id)
    )
    return dict(found.all())


def _latest(*moments: datetime | None) -> datetime | None:
    return max((one for one in moments if one is not None), default=None)


def _undo_seconds(model: Model) -> float:
    # The policy's own class lies above this package.
    return float(model.policy.get("hold_seconds", 0.0))


def about(dataset_id: int) -> ColumnElement[bool]:
    """Return SQL: ``DeletionRequest`` is about records of this dataset."""
    met = exists().where(
        RequestDataset.request_id == DeletionRequest.id, RequestDataset.dataset_id == dataset_id
    )
    return or_(DeletionRequest.dataset_id == dataset_id, met)


def needless(dataset_id: int | None = None) -> ColumnElement[bool]:
    """Return SQL: ``Erasure`` waits for a model that holds nothing and is not being trained.

    Its training failed or was cancelled. A later training starts without the records, or the model
    gets an erasure again (``join``).
    """
    idle = aliased(Model)
    wanted = select(idle.id).where(~_holds_records(idle))
    if dataset_id is not None:
        wanted = wanted.where(idle.dataset_id == dataset_id)
    waits = and_(is_open(), db.among(Erasure.status, ErasureStatus.PENDING))
    return and_(waits, Erasure.model_id.in_(wanted))


def drop_needless(session: Session, dataset_id: int) -> None:
    """Delete needless erasures of the dataset's requests; the caller has locked the dataset."""
    session.execute(
        delete(Erasure).where(needless(dataset_id)).execution_options(synchronize_session=False)
    )


def _holds_records(model: type[Model]) -> ColumnElement[bool]:
    """Return SQL: the model is live, or its first version is being trained or catches up."""
    learning = exists().where(
        TrainingRun.model_id == model.id, db.among(TrainingRun.status, RunStatus.RUNNING)
    )
    catching_up = exists().where(
        Version.model_id == model.id,
        db.among(Version.status, VersionStatus.CANDIDATE),
        Version.anchor_id == Version.id,
    )
    return or_(model.production_id.is_not(None), learning, catching_up)


# Built once: every group of requests uses it, and building it takes longer than running it.
_CONCERNED = (
    select(Model)
    .where(Model.dataset_id == bindparam("dataset_id"), _holds_records(Model))
    .order_by(Model.id)
    .execution_options(populate_existing=True)
)
