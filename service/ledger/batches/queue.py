"""The queue of a model: which erasures wait, when they make a batch, and which models are due.

A batch is made of the oldest ones that can be done together (``oldest_due``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, false, func, literal_column, select, union_all
from sqlalchemy.orm import Session

from service.ledger.batches import execution, holds
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus
from service.ledger.database.tables import Batch, DeletionRequest, Erasure, Model, Version
from service.ledger.obligations import shares
from service.ledger.registry import versions
from service.ledger.registry.policy import Policy

#: Largest number of erasures in one batch: a statement takes a limited number of values.
MAX_ERASURES = 10_000

#: States of requests whose erasures may be claimed. A request that needs review because of another
#: model is claimed like any other; a cancelled or denied one never is.
_WANTED = (RequestStatus.ACCEPTED, RequestStatus.PROCESSING, RequestStatus.NEEDS_REVIEW)


def training_models(session: Session) -> list[int]:
    """Return ids of models whose running batch was left to the trainings lane, oldest first."""
    return list(
        session.scalars(
            select(Batch.model_id)
            .where(db.among(Batch.status, BatchStatus.RUNNING), Batch.trains)
            .order_by(Batch.created_at)
        )
    )


def training_waits(session: Session) -> bool:
    """Return whether a batch was left to the trainings lane and no worker has taken it yet."""
    waiting = exists().where(
        db.among(Batch.status, BatchStatus.RUNNING),
        Batch.trains,
        Batch.fence == execution.NOBODYS_FENCE,
    )
    return bool(session.scalar(select(waiting)))


@dataclass(frozen=True)
class Due:
    """Ids of models that have something to unlearn now, per lane, longest waiting first."""

    steps: list[int]
    #: Their running batch is left to the trainings lane (``training_models``).
    trainings: list[int]


def due(session: Session, *, now: datetime) -> Due:
    """Return, in one statement, which models have something to unlearn now."""
    running = select(_word("running"), Batch.model_id, Batch.created_at, Batch.trains).where(
        db.among(Batch.status, BatchStatus.RUNNING)
    )
    pending = (
        select(_word("pending"), Erasure.model_id, func.min(Erasure.created_at), false())
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .where(*_waits(now))
        .group_by(Erasure.model_id)
    )
    others = [
        select(_word(kind), *wanted.subquery().c, false())
        for kind, wanted in (("held", holds.due(now)), ("catching up", _catching_up()))
    ]
    found: dict[str, dict[int, datetime]] = {}
    trainings = []
    for kind, model_id, since, trains in session.execute(union_all(running, pending, *others)):
        found.setdefault(kind, {})[model_id] = since
        if trains:
            trainings.append(model_id)
    waiting = dict(found.get("running", {}))
    for model_id, oldest in found.get("pending", {}).items():
        if model_id not in waiting:
            model = session.get_one(Model, model_id)
            if model.production_id is not None and _closes(session, model, oldest, now=now):
                waiting[model_id] = oldest
    for kind in ("held", "catching up"):
        for model_id, since in found.get(kind, {}).items():
            waiting.setdefault(model_id, since)
    steps = sorted(waiting.keys() - set(trainings), key=waiting.__getitem__)
    return Due(steps, sorted(trainings, key=waiting.__getitem__))


def _word(kind: str) -> ColumnElement[str]:
    """Return a constant as literal SQL, so that the statement of each poll is planned once."""
    return literal_column(f"'{kind}'")


def due_models(session: Session, *, now: datetime) -> list[int]:
    """Return ids of the models that the deletions lane has something to do for."""
    return due(session, now=now).steps


def oldest_due(session: Session, model: Model, *, now: datetime) -> list[Erasure]:
    """Return the erasures of the model's next batch, locked; [] while it does not close yet."""
    policy = Policy.model_validate(model.policy)
    waiting = _lock_oldest(session, model, now=now, limit=min(policy.max_records, MAX_ERASURES))
    if not waiting:
        return []
    if not _closes(session, model, min(erasure.created_at for erasure, _ in waiting), now=now):
        return []
    first = waiting[0]
    members: list[Erasure] = []
    asked: set[tuple[str | None, int | None]] = set()
    records = 0
    for erasure, request in waiting:
        if erasure.cohort != first[0].cohort or kind_of(request) != kind_of(first[1]):
            continue
        # A further request for the same class or the same list adds no records.
        what = (request.listed_by, request.label)
        more = 0 if what in asked else request.matched
        if members and records + more > policy.max_records:
            break
        asked.add(what)
        # The relationship refuses lazy loads; here the row is already loaded.
        erasure.request = request
        members.append(erasure)
        records += more
    return members


def _lock_oldest(
    session: Session, model: Model, *, now: datetime, limit: int
) -> list[tuple[Erasure, DeletionRequest]]:
    """Lock the requests of the oldest erasures that can be claimed; skip those others have locked.

    Whoever changes one of the erasures locks its request, or the model, first.
    """
    found: list[tuple[Erasure, DeletionRequest]] = []
    last = 0
    while len(found) < limit:
        oldest = session.scalars(
            select(Erasure)
            .where(Erasure.model_id == model.id, Erasure.id > last, *_pending(now))
            .order_by(Erasure.id)
            .limit(limit)
            .execution_options(populate_existing=True)
        ).all()
        asked = {one.request_id for one in oldest}
        locked = session.scalars(
            select(DeletionRequest)
            .where(*_wanted(), db.close_together(DeletionRequest.id, asked))
            .order_by(DeletionRequest.id)
            .with_for_update(key_share=True, skip_locked=True)
            .execution_options(populate_existing=True)
        )
        requests = {request.id: request for request in locked}
        found += [(one, requests[one.request_id]) for one in oldest if one.request_id in requests]
        if len(oldest) < limit:
            break
        last = oldest[-1].id
    return found[:limit]


def _catching_up() -> Any:
    return (
        select(Version.model_id, func.min(Version.created_at))
        .where(versions.catching_up())
        .group_by(Version.model_id)
    )


def _closes(session: Session, model: Model, oldest: datetime, *, now: datetime) -> bool:
    policy = Policy.model_validate(model.policy)
    if model.run_now_at is not None or now - oldest >= timedelta(seconds=policy.max_wait_seconds):
        return True
    records = session.scalar(
        select(func.sum(DeletionRequest.matched))
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(Erasure.model_id == model.id, *_waits(now))
    )
    return (records or 0) >= policy.max_records


def _waits(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return SQL: the erasure can be claimed now, and its ``DeletionRequest`` still wants it."""
    return (*_pending(now), *_wanted())


def _pending(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return SQL: the erasure can be claimed now."""
    return (
        shares.is_open(),
        db.among(Erasure.status, ErasureStatus.PENDING),
        shares.may_begin(now),
    )


def _wanted() -> tuple[ColumnElement[bool], ...]:
    """Return SQL: ``DeletionRequest`` wants its erasures to be claimed."""
    return (
        and_(DeletionRequest.is_open),
        db.among(DeletionRequest.status, *_WANTED),
        DeletionRequest.legal_hold_id.is_(None),
    )


def kind_of(request: DeletionRequest) -> str:
    """Return what a batch with this request forgets: a class, or records."""
    return "class" if request.kind == "class" else "records"
