"""Running batches: what they hold, and how they end.

A batch completes with a version, is handed back unchanged, or fails and is retried, split or put
aside. Every end is written under the lease that the batch was claimed with (``claims``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, aliased

from service.ledger.audit import chain, machines
from service.ledger.batches import leases
from service.ledger.database import ids, locks, retries, taken
from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import (
    Batch,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Version,
)
from service.ledger.obligations import erasures
from service.ledger.registry import versions

#: Fence of a batch that was left to the trainings lane; fences of leases begin at 1.
NOBODYS_FENCE = 0


@dataclass(frozen=True)
class Retry:
    """How often a failing batch is retried, and after which pause."""

    max_attempts: int
    backoff_seconds: float

    def pause(self, attempts: int) -> timedelta:
        """Return the pause after that many failed attempts: doubled each time, up to 10 minutes."""
        seconds = self.backoff_seconds * 2 ** max(0, attempts - 1)
        return timedelta(seconds=min(seconds, retries.LONGEST.total_seconds()))


def rows(session: Session, batch: Batch) -> list[int]:
    """Return the rows of the base version's training data that the batch forgets, ascending."""
    if batch.rows is not None:
        return batch.rows
    return list(
        session.scalars(
            select(BatchRecord.row)
            .where(BatchRecord.batch_id == batch.id)
            .order_by(BatchRecord.row)
        )
    )


def traces(session: Session, batch: Batch, *, limit: int) -> list[str]:
    """Return the trace contexts of at most ``limit`` of the batch's requests, oldest first."""
    wanted = (
        select(DeletionRequest.traceparent)
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(Erasure.batch_id == batch.id, DeletionRequest.traceparent.is_not(None))
        .order_by(DeletionRequest.id)
        .limit(limit)
    )
    return [one for one in session.scalars(wanted) if one is not None]


def erasures_of(session: Session, batch: Batch) -> list[Erasure]:
    """Return the batch's erasures, oldest first."""
    locked: list[Erasure] | None = taken.find(session, _erasures_key(batch.id))
    return list(session.scalars(_erasures(batch))) if locked is None else locked


def running(
    session: Session, batch_id: str, *, held: leases.Held, hold: locks.Hold | None = None
) -> Batch:
    """Lock the batch that runs under this lease, and return it.

    Raise ``LeaseLost`` when it was taken over. Its model, its base version and the anchor are read
    with it and cached. ``hold``: lock its dataset in this way, in the same statement.
    """
    leases.hold(session, held)
    known: tuple[Any, ...] | None = taken.find(session, ("running batch", batch_id))
    if known is None:
        anchor = aliased(Version)
        wanted = (
            select(Batch, Model, Version, anchor)
            .join(Model, Model.id == Batch.model_id)
            .join(Version, Version.id == Batch.base_version_id)
            .outerjoin(anchor, anchor.id == Version.anchor_id)
            .where(Batch.id == batch_id)
            # A running batch is changed only under its lease, or by a transaction that revokes it.
            .execution_options(populate_existing=True)
        )
        if hold is not None:
            wanted = locks.with_dataset(wanted.join(Dataset, Dataset.id == Model.dataset_id), hold)
        known = tuple(session.execute(wanted).one())
        taken.keep(session, ("running batch", batch_id), known)
    batch: Batch = known[0]
    if batch.status != BatchStatus.RUNNING or batch.fence != held.fence:
        raise leases.LeaseLost(f"batch {batch.id} was taken over; drop the work")
    return batch


def lock_requests(session: Session, batch: Batch) -> None:
    """Lock the requests of the batch's erasures; call it before any of these is locked."""
    theirs = select(Erasure.request_id).where(erasures.of_batch(batch))
    locks.requests(session, session.scalars(theirs).all())


def lock_members(session: Session, batch: Batch) -> None:
    """Lock the requests of the batch's erasures, and these: before the batch itself is changed."""
    lock_requests(session, batch)
    session.scalars(
        select(Erasure)
        .where(erasures.of_batch(batch))
        .order_by(Erasure.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()


def lock(session: Session, batch: Batch, *, held: leases.Held) -> list[Erasure]:
    """Lock and return a running batch's erasures; raise ``LeaseLost`` when it was taken over."""
    running(session, batch.id, held=held)
    known: list[Erasure] | None = taken.find(session, _erasures_key(batch.id))
    if known is not None:
        return known
    wanted = _erasures(batch).with_for_update(key_share=True)
    members = list(session.scalars(wanted.execution_options(populate_existing=True)))
    taken.keep(session, _erasures_key(batch.id), members)
    return members


def complete(
    session: Session,
    batch: Batch,
    version: Version,
    *,
    held: leases.Held,
    now: datetime,
) -> list[str]:
    """Complete the batch and its erasures with the version that is about to go live.

    Call it in the transaction that promotes the version, before the promotion. Return the ids of
    the requests that had an erasure in it.
    """
    lock(session, batch, held=held)
    return close(session, batch, version, actor=f"worker:{held.owner}", now=now)


def close(
    session: Session, batch: Batch, version: Version, *, actor: str, now: datetime
) -> list[str]:
    """Complete a running or held batch with the version that is live, or about to be."""
    done = erasures_of(session, batch)
    machines.batches.move(batch, BatchStatus.COMPLETED)
    batch.version_id = version.id
    batch.finished_at = now
    batch.error = None
    for erasure in done:
        erasures.complete(erasure, version_id=version.id, now=now)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.BATCH_COMPLETED,
        subject=f"batch:{batch.id}",
        data={"erasures": len(done), "attempts": batch.attempts},
    )
    return [erasure.request_id for erasure in done]


def hand_back(
    session: Session, batch: Batch, *, held: leases.Held, because: str, now: datetime
) -> None:
    """Return the erasures to the queue without counting an attempt against them."""
    lock(session, batch, held=held)
    stop(session, batch, because=because, actor=f"worker:{held.owner}", now=now)


def stop(session: Session, batch: Batch, *, because: str, actor: str, now: datetime) -> None:
    """End a running or held batch without a version; its erasures wait for the next one.

    The caller holds the model's lease, or has taken it from the worker that does, and has locked
    the requests.
    """
    _close(session, batch, error=because, now=now)
    for erasure in erasures_of(session, batch):
        erasures.release(erasure, attempts=erasure.attempts)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.BATCH_HANDED_BACK,
        subject=f"batch:{batch.id}",
        data={"because": because},
    )


def leave_to_training(
    session: Session, batch: Batch, *, tried: Sequence[dict[str, Any]], held: leases.Held
) -> None:
    """Leave the running batch to the trainings lane, with the methods that were tried already.

    It stays the model's running batch, so no second one is formed beside it. Until that lane claims
    it, its fence belongs to nobody, so later writes of the present holder are refused.
    """
    lock(session, batch, held=held)
    batch.trains = True
    batch.tried = list(tried)
    batch.fence = NOBODYS_FENCE
    session.flush()
    chain.append(
        session,
        actor=f"worker:{held.owner}",
        action=chain.Action.BATCH_LEFT_TO_TRAINING,
        subject=f"batch:{batch.id}",
        data={"methods_tried": len(batch.tried)},
    )


def is_last_attempt(session: Session, batch: Batch, *, retry: Retry) -> bool:
    """Return whether one more failure puts the batch aside or splits it."""
    return _attempts(batch, erasures_of(session, batch)) >= retry.max_attempts


def fail(
    session: Session,
    batch: Batch,
    *,
    held: leases.Held,
    error: str,
    retry: Retry,
    now: datetime,
    lasting: bool = False,
    hopeless: bool = False,
) -> None:
    """Record a failed attempt: retry after a pause; after the last one split, or put aside.

    ``lasting``: another attempt would end the same way, so this one is the last. ``hopeless``: so
    would one with fewer requests; all are put aside at once.
    A batch of several erasures that keeps failing is halved into two cohorts that are batched
    separately from then on, so that finally the erasure that causes the failure is alone and is put
    aside for review while the others complete.
    """
    # Before the erasures: one that is put aside changes its request too.
    leases.hold(session, held)
    lock_requests(session, batch)
    members = lock(session, batch, held=held)
    actor = f"worker:{held.owner}"
    _close(session, batch, error=error, now=now)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.BATCH_FAILED,
        subject=f"batch:{batch.id}",
        data={"attempts": batch.attempts, "erasures": len(members)},
    )
    if not members:
        attempts = 1 if lasting or hopeless else retry.max_attempts
        _give_up_candidate(session, batch, attempts=attempts, actor=actor)
        return
    attempts = _attempts(batch, members)
    if hopeless:
        for erasure in members:
            erasures.put_aside(session, erasure, error=error, actor=actor)
    elif attempts < retry.max_attempts and not lasting:
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
    """Return the batch's attempts plus the largest number of its erasures' earlier attempts."""
    return batch.attempts + max((erasure.attempts for erasure in members), default=0)


def _give_up_candidate(session: Session, batch: Batch, *, attempts: int, actor: str) -> None:
    """Reject a new anchor after too many failed attempts; the old version stays live."""
    failed = session.scalar(
        select(func.count())
        .select_from(Batch)
        .where(Batch.base_version_id == batch.base_version_id, Batch.status == BatchStatus.FAILED)
    )
    if (failed or 0) < attempts:
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
    chain.append(
        session,
        actor=actor,
        action=chain.Action.BATCH_SPLIT,
        subject=f"batch:{batch.id}",
        data={"into": [middle, len(members) - middle]},
    )


def _close(session: Session, batch: Batch, *, error: str, now: datetime) -> None:
    machines.batches.move(batch, BatchStatus.FAILED)
    batch.error = error
    batch.finished_at = now


def _erasures(batch: Batch) -> Select[Erasure]:
    return select(Erasure).where(erasures.of_batch(batch)).order_by(Erasure.id)


def _erasures_key(batch_id: str) -> taken.Key:
    return ("erasures of batch", batch_id)
