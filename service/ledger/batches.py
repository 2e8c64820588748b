"""Batches: which erasures of a model are unlearned together, and how a batch ends.

At most one batch of a model runs at a time. The worker that runs it holds the model's lease
(``leases``); a batch whose worker died is taken over by the next holder, as it stands.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from service.ledger import audit, erasures, ids, leases, versions
from service.ledger.policy import Policy
from service.ledger.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.tables import (
    Batch,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    RequestRecord,
    Version,
)

#: Erasures in one batch, at most: a statement takes a limited number of values.
MAX_ERASURES = 10_000

#: The method whose result cannot depend on what it forgets, where nothing else will do.
EXACT = {"method": "retrain", "options": {}}


@dataclass(frozen=True)
class Retry:
    """How often and after which pause a failing batch is tried again."""

    max_attempts: int
    backoff_seconds: float

    def pause(self, attempts: int) -> timedelta:
        """Pause after that many failed attempts: doubled each time, ten minutes at most."""
        return timedelta(seconds=min(self.backoff_seconds * 2 ** max(0, attempts - 1), 600.0))


def lease_key(model_id: int) -> str:
    """Key of the lease that a worker holds while it changes what a model's production is."""
    return f"model:{model_id}"


def due_models(session: Session, *, now: datetime) -> list[int]:
    """Ids of the models that have something to unlearn now, longest waiting first."""
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
    for model_id, since in session.execute(_catching_up()):
        waiting.setdefault(model_id, since)
    return sorted(waiting, key=waiting.__getitem__)


def claim(session: Session, model: Model, *, held: leases.Held, now: datetime) -> Batch | None:
    """The model's next batch: a left one taken over, or a new one; None when nothing is due."""
    leases.hold(session, held)
    left = session.scalar(
        select(Batch).where(Batch.model_id == model.id, Batch.status == BatchStatus.RUNNING)
    )
    if left is not None:
        return _take_over(session, left, held=held)
    return _catch_up(session, model, held=held, now=now) or _form(
        session, model, held=held, now=now
    )


def rows(session: Session, batch: Batch) -> list[int]:
    """Rows of the base version's training data that the batch forgets."""
    return list(
        session.scalars(
            select(BatchRecord.row)
            .where(BatchRecord.batch_id == batch.id)
            .order_by(BatchRecord.row)
        )
    )


def erasures_of(session: Session, batch: Batch) -> list[Erasure]:
    """The batch's erasures, oldest first."""
    return list(
        session.scalars(select(Erasure).where(Erasure.batch_id == batch.id).order_by(Erasure.id))
    )


def complete(
    session: Session,
    batch: Batch,
    version: Version,
    *,
    held: leases.Held,
    now: datetime,
) -> list[str]:
    """The batch's version is live-to-be: close the batch and its erasures.

    Called in the transaction that promotes the version, before the promotion. Returns the ids of
    the requests that had an erasure in it.
    """
    _require_running(session, batch, held)
    batch.status = BatchStatus.COMPLETED
    batch.version_id = version.id
    batch.finished_at = now
    batch.error = None
    done = erasures_of(session, batch)
    for erasure in done:
        erasures.complete(erasure, version_id=version.id, now=now)
    session.flush()
    audit.append(
        session,
        actor=f"worker:{held.owner}",
        action=audit.Action.BATCH_COMPLETED,
        subject=f"batch:{batch.id}",
        data={"erasures": len(done), "attempts": batch.attempts},
    )
    return [erasure.request_id for erasure in done]


def hand_back(
    session: Session, batch: Batch, *, held: leases.Held, because: str, now: datetime
) -> None:
    """Nobody's fault: the erasures wait for the next batch, with nothing new held against them."""
    _require_running(session, batch, held)
    _close(session, batch, error=because, now=now)
    for erasure in erasures_of(session, batch):
        erasures.release(erasure, attempts=erasure.attempts)
    session.flush()
    audit.append(
        session,
        actor=f"worker:{held.owner}",
        action=audit.Action.BATCH_HANDED_BACK,
        subject=f"batch:{batch.id}",
        data={"because": because},
    )


def is_last_attempt(session: Session, batch: Batch, *, retry: Retry) -> bool:
    """Whether the batch is put aside, or split, should it fail once more."""
    return _attempts(batch, erasures_of(session, batch)) >= retry.max_attempts


def fail(
    session: Session,
    batch: Batch,
    *,
    held: leases.Held,
    error: str,
    retry: Retry,
    now: datetime,
) -> None:
    """An attempt failed: pause and try again; after the last one split, or put aside.

    A batch of several erasures that keeps failing is halved into two cohorts that are batched
    apart from then on, so that in the end the poisonous one stands alone and is put aside for
    review while the others complete.
    """
    _require_running(session, batch, held)
    actor = f"worker:{held.owner}"
    _close(session, batch, error=error, now=now)
    members = erasures_of(session, batch)
    session.flush()
    audit.append(
        session,
        actor=actor,
        action=audit.Action.BATCH_FAILED,
        subject=f"batch:{batch.id}",
        data={"attempts": batch.attempts, "erasures": len(members)},
    )
    if not members:
        _give_up_candidate(session, batch, retry=retry, actor=actor)
        return
    attempts = _attempts(batch, members)
    if attempts < retry.max_attempts:
        for erasure in members:
            erasures.release(
                erasure, attempts=attempts, not_before=now + retry.pause(attempts), error=error
            )
    elif len(members) > 1:
        _split(session, batch, members, error=error, actor=actor)
    else:
        for erasure in members:
            erasures.put_aside(session, erasure, error=error, actor=actor)


def _attempts(batch: Batch, members: Sequence[Erasure]) -> int:
    """Attempts of the batch and, before it, of the erasure among its members that had most."""
    return batch.attempts + max((erasure.attempts for erasure in members), default=0)


def _give_up_candidate(session: Session, batch: Batch, *, retry: Retry, actor: str) -> None:
    """A fresh anchor that cannot catch up is never promoted: the old version goes on."""
    failed = session.scalar(
        select(func.count())
        .select_from(Batch)
        .where(Batch.base_version_id == batch.base_version_id, Batch.status == BatchStatus.FAILED)
    )
    if (failed or 0) < retry.max_attempts:
        return
    model = session.get_one(Model, batch.model_id)
    candidate = session.get_one(Version, batch.base_version_id)
    if candidate.status == VersionStatus.CANDIDATE:
        versions.reject(session, model, candidate, verdict="cannot catch up", actor=actor)


def _split(
    session: Session, batch: Batch, members: Sequence[Erasure], *, error: str, actor: str
) -> None:
    middle = len(members) // 2
    for half in (members[:middle], members[middle:]):
        cohort = ids.new("c")
        for erasure in half:
            erasures.release(erasure, cohort=cohort, error=error)
    audit.append(
        session,
        actor=actor,
        action=audit.Action.BATCH_SPLIT,
        subject=f"batch:{batch.id}",
        data={"into": [middle, len(members) - middle]},
    )


def _close(session: Session, batch: Batch, *, error: str, now: datetime) -> None:
    batch.status = BatchStatus.FAILED
    batch.error = error
    batch.finished_at = now


def _require_running(session: Session, batch: Batch, held: leases.Held) -> None:
    leases.hold(session, held)
    session.refresh(batch)
    if batch.status != BatchStatus.RUNNING or batch.fence != held.fence:
        raise leases.LeaseLost(f"batch {batch.id} was taken over; drop the work")


def _take_over(session: Session, batch: Batch, *, held: leases.Held) -> Batch:
    if batch.fence != held.fence:  # a new holder: the one before died or was stopped
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
    batch = _open(session, model, base, kind=_kind(members[0]), held=held, now=now)
    if _left_a_class(session, base):
        # An approximate step may bring the class back, and its rows are overwritten in every
        # split: nothing could tell.
        batch.method = EXACT
    for erasure in members:
        erasures.claim(erasure, batch_id=batch.id)
        # One that needs review for another model stays so: only its retry may change that.
        if erasure.request.status == RequestStatus.ACCEPTED:
            erasure.request.status = RequestStatus.PROCESSING
    model.run_now_at = None
    model.run_now_method = None
    session.flush()
    requests = [erasure.request_id for erasure in members]
    _list_rows(session, model, base, batch, requests)
    exclude(session, model.dataset_id, requests)
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


def _catch_up(session: Session, model: Model, *, held: leases.Held, now: datetime) -> Batch | None:
    """A batch for a freshly trained anchor that still owes deletions made while it trained."""
    candidate = session.scalar(
        select(Version)
        .where(
            Version.model_id == model.id,
            Version.status == VersionStatus.CANDIDATE,
            Version.anchor_id == Version.id,
            Version.training_run_id.is_not(None),
        )
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
            reason="training run: nothing owed",
            actor=f"worker:{held.owner}",
            now=now,
        )
        return None
    batch = _open(session, model, candidate, kind="records", held=held, now=now)
    if _owes_a_class(session, model, candidate):
        # All debts are paid in one batch, and single records and a class have different targets;
        # a training without any of them meets both.
        batch.method = EXACT
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


def _left_a_class(session: Session, base: Version) -> bool:
    """Whether a class was forgotten between the version's anchor and the version."""
    chain = versions.batch_chain(session, base)
    found = session.scalar(
        select(Batch.id).where(Batch.id.in_(chain), Batch.kind == "class").limit(1)
    )
    return found is not None


def _catching_up() -> Any:
    return (
        select(Version.model_id, func.min(Version.created_at))
        .where(
            Version.status == VersionStatus.CANDIDATE,
            Version.anchor_id == Version.id,
            Version.training_run_id.is_not(None),
        )
        .group_by(Version.model_id)
    )


def _open(
    session: Session,
    model: Model,
    base: Version,
    *,
    kind: str,
    held: leases.Held,
    now: datetime,
) -> Batch:
    batch = Batch(
        id=ids.new("b"),
        model_id=model.id,
        status=BatchStatus.RUNNING,
        kind=kind,
        base_version_id=base.id,
        method=model.run_now_method,
        seed=secrets.randbits(31),
        fence=held.fence,
        created_at=now,
    )
    session.add(batch)
    session.flush()
    return batch


def _list_rows(
    session: Session, model: Model, base: Version, batch: Batch, requests: list[str]
) -> None:
    """Fix, before anything is excluded, which of the base's training rows the batch forgets."""
    chain = versions.batch_chain(session, base)
    wanted = (
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
        .distinct()
    )
    found = [{"batch_id": batch.id, "row": row} for row in session.scalars(wanted)]
    if found:
        session.execute(insert(BatchRecord), found)


def exclude(session: Session, dataset_id: int, requests: Sequence[str]) -> int:
    """Take the requests' records out of all training from now on; the dataset's new revision."""
    revision = session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id)
        .values(revision=Dataset.revision + 1)
        .returning(Dataset.revision)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    theirs = exists().where(
        RequestRecord.request_id.in_(requests),
        RequestRecord.dataset_id == Record.dataset_id,
        RequestRecord.row == Record.row,
    )
    session.execute(
        update(Record)
        .where(Record.dataset_id == dataset_id, Record.excluded_revision.is_(None), theirs)
        .values(excluded_revision=revision)
        .execution_options(synchronize_session=False)
    )
    return int(revision)


def _oldest_due(session: Session, model: Model, *, now: datetime) -> list[Erasure]:
    policy = Policy.model_validate(model.policy)
    waiting = session.execute(
        select(Erasure, DeletionRequest)
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .where(Erasure.model_id == model.id, Erasure.status == ErasureStatus.PENDING, _rested(now))
        .order_by(Erasure.id)
        .limit(min(policy.max_records, MAX_ERASURES))
        # Both rows: a cancellation changes both, and must find them in the same order.
        .with_for_update(of=[DeletionRequest, Erasure], skip_locked=True)
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


def _kind(erasure: Erasure) -> str:
    return _kind_of(erasure.request)


def _kind_of(request: DeletionRequest) -> str:
    return "class" if request.kind == "class" else "records"
