"""Claims: which erasures of a model are unlearned together next, and how.

At most one batch of a model runs at a time. The worker that runs it holds the model's lease
(``leases``); a batch whose worker died is taken over by the next holder, as it stands. What
becomes of a running batch is in ``batches``.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, exists, func, insert, or_, select
from sqlalchemy.orm import Session

from service.ledger import audit, batches, erasures, holds, ids, leases, locks, versions
from service.ledger.policy import Policy
from service.ledger.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.tables import (
    Batch,
    BatchRecord,
    DeletionRequest,
    Erasure,
    Import,
    Model,
    Record,
    RequestRecord,
    Version,
)

#: Erasures in one batch, at most: a statement takes a limited number of values.
MAX_ERASURES = 10_000

#: The method whose result cannot depend on what it forgets, where nothing else will do.
EXACT: dict[str, Any] = {"method": "retrain", "options": {}}


def training_models(session: Session) -> list[int]:
    """Ids of the models whose running batch is left to the trainings lane, oldest batch first."""
    return list(
        session.scalars(
            select(Batch.model_id)
            .where(Batch.status == BatchStatus.RUNNING, Batch.trains)
            .order_by(Batch.created_at)
        )
    )


def training_waits(session: Session) -> bool:
    """Whether a batch was left to the trainings lane and no worker has taken it yet."""
    waiting = exists().where(
        Batch.status == BatchStatus.RUNNING,
        Batch.trains,
        Batch.fence == batches.NOBODYS_FENCE,
    )
    return bool(session.scalar(select(waiting)))


def due_models(session: Session, *, now: datetime) -> list[int]:
    """Ids of the models that have something to unlearn now, longest waiting first.

    Without those whose running batch is left to the trainings lane (``training_models``).
    """
    training = set(training_models(session))
    running = select(Batch.model_id, Batch.created_at).where(Batch.status == BatchStatus.RUNNING)
    waiting: dict[int, datetime] = dict(session.execute(running).all())
    pending = (
        select(Erasure.model_id, func.min(Erasure.created_at))
        .where(Erasure.status == ErasureStatus.PENDING, _rested(now))
        .group_by(Erasure.model_id)
    )
    for model_id, oldest in session.execute(pending):
        if model_id not in waiting:
            model = session.get_one(Model, model_id)
            if model.production_id is not None and _closes(session, model, oldest, now=now):
                waiting[model_id] = oldest
    for model_id, since in session.execute(holds.due(now)):
        waiting.setdefault(model_id, since)
    for model_id, since in session.execute(_catching_up()):
        waiting.setdefault(model_id, since)
    return sorted(waiting.keys() - training, key=waiting.__getitem__)


def claim(
    session: Session, model: Model, *, held: leases.Held, now: datetime, trains: bool = False
) -> Batch | None:
    """The model's next batch: a left one taken over, or a new one; None when nothing is due.

    ``trains``: the trainings lane asks, which takes what was left to it and nothing else.
    """
    leases.hold(session, held)
    _lock(session, model)
    left = session.scalar(
        select(Batch).where(Batch.model_id == model.id, Batch.status == BatchStatus.RUNNING)
    )
    if left is not None and left.trains != trains:
        return None  # the other lane's, and the model's next one waits for it
    if left is not None:
        return _take_over(session, left, held=held)
    if trains:
        return None
    is_held = holds.settle(session, model, held=held, now=now)
    catching_up = _catch_up(session, model, held=held, now=now)
    if catching_up is not None or is_held:
        return catching_up  # while a batch is held, newer erasures wait for its end
    return _form(session, model, held=held, now=now)


def must_be_exact(session: Session, model: Model) -> bool:
    """Whether the next batch is retrained, whatever the policy says: the live version left a class.

    An approximate step may bring the class back, and its rows are overwritten in every split:
    nothing could tell.
    """
    if model.production_id is None:
        return False
    live = session.get_one(Version, model.production_id)
    return _holds_a_class(session, versions.batch_chain(session, live))


def _lock(session: Session, model: Model) -> None:
    """Before any request or erasure, and in the way that promoting a first anchor needs."""
    hold = locks.Hold.PUBLICATION if model.production_id is None else locks.Hold.REVISION
    locks.dataset(session, model.dataset_id, hold)
    locks.models(session, [model.id])


def _take_over(session: Session, batch: Batch, *, held: leases.Held) -> Batch:
    if batch.fence == batches.NOBODYS_FENCE:  # handed on in order: no attempt has failed
        batch.fence = held.fence
        session.flush()
    elif batch.fence != held.fence:  # a new holder: the one before died or was stopped
        batch.attempts += 1
        batch.fence = held.fence
        session.flush()
        audit.append(
            session,
            actor=f"worker:{held.owner}",
            action=audit.Action.BATCH_TAKEN_OVER,
            subject=f"batch:{batch.id}",
            data={"attempt": batch.attempts},
        )
    return batch


def _form(session: Session, model: Model, *, held: leases.Held, now: datetime) -> Batch | None:
    """A new batch of the oldest due erasures, on the production version."""
    if model.production_id is None:
        return None
    members = _oldest_due(session, model, now=now)
    if not members:
        return None
    base = session.get_one(Version, model.production_id)
    chain = versions.batch_chain(session, base)
    requests = [erasure.request_id for erasure in members]
    # See must_be_exact; and no step can be taken from rows that are zeros.
    exact = _holds_a_class(session, chain) or _holds_erased(
        session, model, base, requests, chain=chain
    )
    kind = _kind_of(members[0].request)
    batch = _open(session, model, base, kind=kind, exact=exact, held=held, now=now)
    for erasure in members:
        erasures.claim(erasure, batch_id=batch.id)
        # One that needs review for another model stays so: only its retry may change that.
        if erasure.request.status == RequestStatus.ACCEPTED:
            erasure.request.status = RequestStatus.PROCESSING
    model.run_now_at = None
    model.run_now_method = None
    session.flush()
    _list_rows(session, model, base, batch, requests, chain=chain)
    erasures.exclude(session, model.dataset_id, requests)
    audit.append_many(
        session,
        actor=f"worker:{held.owner}",
        lines=[
            audit.Line(
                audit.Action.BATCH_CLAIMED,
                f"batch:{batch.id}",
                {"model": model.name, "erasures": len(members), "base": base.number},
            ),
            *(
                audit.Line(
                    audit.Action.DELETION_REQUEST_CLAIMED,
                    f"deletion_request:{request_id}",
                    {"batch": batch.id, "model": model.name},
                )
                for request_id in requests
            ),
        ],
    )
    return batch


def _oldest_due(session: Session, model: Model, *, now: datetime) -> list[Erasure]:
    policy = Policy.model_validate(model.policy)
    waiting = session.execute(
        select(Erasure, DeletionRequest)
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .where(Erasure.model_id == model.id, Erasure.status == ErasureStatus.PENDING, _rested(now))
        .order_by(Erasure.id)
        .limit(min(policy.max_records, MAX_ERASURES))
        # Both rows: a cancellation changes both, and must find them in the same order.
        .with_for_update(of=[DeletionRequest, Erasure], key_share=True, skip_locked=True)
    ).all()
    if not waiting:
        return []
    if not _closes(session, model, min(erasure.created_at for erasure, _ in waiting), now=now):
        return []
    first = waiting[0]
    members: list[Erasure] = []
    records = 0
    for erasure, request in waiting:
        if erasure.cohort != first[0].cohort or _kind_of(request) != _kind_of(first[1]):
            continue
        if members and records + request.matched > policy.max_records:
            break
        # The relationship refuses lazy loads; here the row is already at hand.
        erasure.request = request
        members.append(erasure)
        records += request.matched
    return members


def _list_rows(
    session: Session,
    model: Model,
    base: Version,
    batch: Batch,
    requests: list[str],
    *,
    chain: list[str],
) -> None:
    """Fix, before anything is excluded, which of the base's training rows the batch forgets."""
    wanted = _held_rows(model, base, requests, chain=chain).distinct()
    found = [{"batch_id": batch.id, "row": row} for row in session.scalars(wanted)]
    if found:
        session.execute(insert(BatchRecord), found)


def _holds_erased(
    session: Session, model: Model, base: Version, requests: list[str], *, chain: list[str]
) -> bool:
    """Whether the base holds one of the requests' rows whose raw data is gone."""
    gone = _held_rows(model, base, requests, chain=chain).where(Record.erased_at.is_not(None))
    return session.scalar(gone.limit(1)) is not None


def _held_rows(
    model: Model, base: Version, requests: list[str], *, chain: list[str]
) -> Select[Any]:
    """Select of the requests' rows that the base holds."""
    return (
        select(Record.row)
        .join(
            RequestRecord,
            and_(RequestRecord.dataset_id == Record.dataset_id, RequestRecord.row == Record.row),
        )
        .where(
            Record.dataset_id == model.dataset_id,
            RequestRecord.request_id.in_(requests),
            versions.contained(base, chain=chain),
        )
    )


def _catch_up(session: Session, model: Model, *, held: leases.Held, now: datetime) -> Batch | None:
    """A batch for a new anchor that still owes deletions made while it was trained or measured."""
    candidate = session.scalar(
        select(Version)
        .where(Version.model_id == model.id, _owing_anchor())
        .order_by(Version.number.desc())
        .limit(1)
    )
    if candidate is None:
        return None
    owed = session.scalars(versions.owed(session, model, candidate)).all()
    if not owed:
        # Its debts are open requests again; the next batch works on them, on this anchor.
        versions.promote(
            session,
            model,
            candidate,
            expected_production=model.production_id,
            reason="nothing owed any more",
            actor=f"worker:{held.owner}",
            now=now,
        )
        return None
    # All debts are paid in one batch, and single records and a class have different targets; a
    # training without any of them meets both.
    exact = _owes_a_class(session, model, candidate)
    batch = _open(session, model, candidate, kind="records", exact=exact, held=held, now=now)
    session.execute(insert(BatchRecord), [{"batch_id": batch.id, "row": row} for row in owed])
    audit.append(
        session,
        actor=f"worker:{held.owner}",
        action=audit.Action.BATCH_CLAIMED,
        subject=f"batch:{batch.id}",
        data={"model": model.name, "erasures": 0, "base": candidate.number, "catching_up": True},
    )
    return batch


def _owes_a_class(session: Session, model: Model, candidate: Version) -> bool:
    found = session.scalar(
        select(RequestRecord.row)
        .join(DeletionRequest, DeletionRequest.id == RequestRecord.request_id)
        .where(
            DeletionRequest.kind == "class",
            RequestRecord.dataset_id == model.dataset_id,
            RequestRecord.row.in_(versions.owed(session, model, candidate)),
        )
        .limit(1)
    )
    return found is not None


def _holds_a_class(session: Session, chain: list[str]) -> bool:
    """Whether one of these batches forgot a class."""
    found = session.scalar(
        select(Batch.id).where(Batch.id.in_(chain), Batch.kind == "class").limit(1)
    )
    return found is not None


def _open(
    session: Session,
    model: Model,
    base: Version,
    *,
    kind: str,
    exact: bool,
    held: leases.Held,
    now: datetime,
) -> Batch:
    batch = Batch(
        id=ids.new("b"),
        model_id=model.id,
        status=BatchStatus.RUNNING,
        kind=kind,
        base_version_id=base.id,
        method=EXACT if exact else model.run_now_method,
        seed=secrets.randbits(31),
        fence=held.fence,
        created_at=now,
    )
    session.add(batch)
    session.flush()
    return batch


def _catching_up() -> Any:
    return (
        select(Version.model_id, func.min(Version.created_at))
        .where(_owing_anchor())
        .group_by(Version.model_id)
    )


def _owing_anchor() -> Any:
    """SQL: ``Version`` was trained, or imported and measured, and could not go live at once."""
    measured = exists().where(Import.version_id == Version.id, Import.finished_at.is_not(None))
    return and_(
        Version.status == VersionStatus.CANDIDATE,
        Version.anchor_id == Version.id,
        or_(Version.training_run_id.is_not(None), measured),
    )


def _closes(session: Session, model: Model, oldest: datetime, *, now: datetime) -> bool:
    policy = Policy.model_validate(model.policy)
    if model.run_now_at is not None or now - oldest >= timedelta(seconds=policy.max_wait_seconds):
        return True
    records = session.scalar(
        select(func.sum(DeletionRequest.matched))
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(Erasure.model_id == model.id, Erasure.status == ErasureStatus.PENDING)
    )
    return (records or 0) >= policy.max_records


def _rested(now: datetime) -> Any:
    return or_(Erasure.not_before.is_(None), Erasure.not_before <= now)


def _kind_of(request: DeletionRequest) -> str:
    return "class" if request.kind == "class" else "records"
