"""Holds: a version that may go live, but need not yet, waits for approval, or for the due date.

There are two kinds, by the version's mark. An exact version that lost too much accuracy
(``ACCURACY``) was trained without the records, so no method gives a better one. A version of a few
records that the base version has memorised (``MEMORISED``) cannot be shown to have forgotten them,
and the policy has no other method. The version stays a candidate, its batch is ``held``, the
previous version stays live, and no other batch of the model is formed. The hold ends

- when an operator approves the version (``approvals``);
- by itself, a margin before the first of the requests is due, or at once when the policy no longer
  holds such versions;
- for memorised records, when newer requests are to be done: all of them make one batch, which has
  more rows to judge by;
- when another version without the records goes live: the batch is completed with it;
- when production moved to a version that does hold them, or another method is requested: the
  erasures wait for the next batch again.

All but the approval are checked at the next claim, under the model's lease; each is a transaction.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain, machines
from service.ledger.batches import execution, leases
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, ErasureStatus, RequestStatus, VersionStatus
from service.ledger.database.tables import Batch, DeletionRequest, Erasure, Model, Record, Version
from service.ledger.obligations import erasures, shares
from service.ledger.registry import lineage, versions
from service.ledger.registry.policy import Policy
from service.ledger.selection import naming

#: Mark of an exact version that lost more accuracy than the policy allows.
ACCURACY = "accuracy_drop"
#: Mark of a version that cannot be shown to have forgotten what its base version has memorised.
MEMORISED = "memorised"
MARKS = (ACCURACY, MEMORISED)
#: Why a version is held, by its mark.
BECAUSE = {
    ACCURACY: "it lost more accuracy than the policy allows",
    MEMORISED: "the base version has memorised the records, and they are too few to show that "
    "this one has forgotten them",
}


def until(
    session: Session, batch: Batch, policy: Policy, *, mark: str | None = ACCURACY
) -> datetime | None:
    """Return when a hold of the batch would end by itself; None when it is not to be held.

    ``mark`` is that of its version. A batch without requests of its own, of an anchor that catches
    up, has no due date to wait for.
    """
    if not _holds(policy, mark):
        return None
    first = session.scalar(
        select(func.min(DeletionRequest.due_at))
        .join(Erasure, Erasure.request_id == DeletionRequest.id)
        .where(erasures.of_batch(batch))
    )
    return None if first is None else first - timedelta(days=policy.hold_margin_days)


def _holds(policy: Policy, mark: str | None) -> bool:
    """Return whether the policy holds versions with this mark."""
    if mark == MEMORISED:
        return policy.on_memorised != "promote"
    return mark == ACCURACY and policy.on_accuracy_drop == "hold"


def hold(
    session: Session,
    model: Model,
    batch: Batch,
    version: Version,
    *,
    until: datetime,
    held: leases.Held,
    mark: str = ACCURACY,
) -> None:
    """Hold the batch and its version until it is approved, or ``until``; ``mark`` says why."""
    leases.hold(session, held)
    execution.lock_requests(session, batch)
    execution.lock(session, batch, held=held)
    version.mark = mark
    _say_until(session, model, batch, version, until)
    machines.batches.move(batch, BatchStatus.HELD)
    batch.version_id = version.id
    _set_end(session, batch, version, until, actor=f"worker:{held.owner}")


def review(session: Session, model: Model, *, actor: str, now: datetime) -> None:
    """Move the end of the model's hold to where its changed policy puts it."""
    batch = locked(session, model)
    if batch is None:
        return
    version = session.get_one(Version, batch.version_id)
    policy = Policy.model_validate(model.policy)
    ends = until(session, batch, policy, mark=version.mark) or now
    if ends != batch.held_until:
        _say_until(session, model, batch, version, ends)
        _set_end(session, batch, version, ends, actor=actor)


def of(session: Session, model: Model) -> Batch | None:
    """Return the model's held batch, or None."""
    return session.scalar(
        select(Batch).where(Batch.model_id == model.id, db.among(Batch.status, BatchStatus.HELD))
    )


def due(now: datetime) -> Select[int, datetime]:
    """Select (model id, creation) of held batches whose hold can end."""
    return (
        select(Batch.model_id, Batch.created_at)
        .join(Model, Model.id == Batch.model_id)
        .join(Version, Version.id == Batch.version_id)
        .where(
            db.among(Batch.status, BatchStatus.HELD),
            or_(
                Batch.held_until <= now,
                Model.production_id.is_distinct_from(Batch.base_version_id),
                ~db.among(Version.status, VersionStatus.CANDIDATE),
            ),
        )
    )


def settle(session: Session, model: Model, *, held: leases.Held, now: datetime) -> bool:
    """End the model's hold if it is time; return whether a batch is still held.

    Call it under the model's lease, before another batch is formed.
    """
    batch = locked(session, model)
    if batch is None:
        return False
    actor = f"worker:{held.owner}"
    version = session.get_one(Version, batch.version_id)
    live = None if model.production_id is None else session.get_one(Version, model.production_id)
    if live is not None and not _contains_any(session, model, live, batch):
        execution.close(session, batch, live, actor=actor, now=now)
        if version.status == VersionStatus.CANDIDATE:
            versions.reject(session, model, version, verdict="superseded", actor=actor)
        return False
    if version.status != VersionStatus.CANDIDATE or model.production_id != batch.base_version_id:
        release(session, model, batch, because="another version went live", actor=actor, now=now)
        return False
    policy = Policy.model_validate(model.policy)
    if batch.held_until is not None and batch.held_until > now:
        if version.mark != MEMORISED or not _others_wait(session, batch, policy, now=now):
            return True
        why = "newer requests are judged together with it"
        release(session, model, batch, because=why, actor=actor, now=now)
        return False
    holds_on = _holds(policy, version.mark)
    reason = "held until it was due" if holds_on else "the policy holds nothing any more"
    go_live(session, model, batch, version, reason=reason, actor=actor, now=now)
    return False


def release(
    session: Session, model: Model, batch: Batch, *, because: str, actor: str, now: datetime
) -> None:
    """Give the held version up; its erasures wait for the next batch."""
    _say_why(session, batch, None)
    version = session.get_one(Version, batch.version_id)
    if version.status == VersionStatus.CANDIDATE:
        versions.reject(session, model, version, verdict="given up", actor=actor)
    execution.stop(session, batch, because=because, actor=actor, now=now)


def locked(session: Session, model: Model) -> Batch | None:
    """Lock the model and, in the order of ``locks``, its held batch; return it or None."""
    if of(session, model) is None:
        return None
    versions.lock(session, model)
    found = of(session, model)
    if found is None:
        return None
    execution.lock_members(session, found)
    session.scalars(
        select(Batch)
        .where(Batch.id == found.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    return found if found.status == BatchStatus.HELD else None


def go_live(
    session: Session,
    model: Model,
    batch: Batch,
    version: Version,
    *,
    reason: str,
    actor: str,
    now: datetime,
) -> None:
    """Complete the held batch with its version, and promote it."""
    base_id = batch.base_version_id
    execution.close(session, batch, version, actor=actor, now=now)
    versions.promote(
        session,
        model,
        version,
        expected_production=base_id,
        reason=reason,
        actor=actor,
        now=now,
    )


def _others_wait(session: Session, batch: Batch, policy: Policy, *, now: datetime) -> bool:
    """Return whether other requests are due that fit into one batch with those of a held one.

    Mostly newer ones; one that failed before may be older, and so may one that was still being
    recorded when the batch was claimed.
    """
    ours = execution.erasures_of(session, batch)
    other = session.execute(
        select(Erasure, DeletionRequest)
        .join(DeletionRequest, DeletionRequest.id == Erasure.request_id)
        .where(
            Erasure.model_id == batch.model_id,
            Erasure.cohort.is_not_distinct_from(ours[0].cohort),
            shares.is_open(),
            db.among(Erasure.status, ErasureStatus.PENDING),
            shares.may_begin(now),
            DeletionRequest.kind != "class",
            DeletionRequest.legal_hold_id.is_(None),
            DeletionRequest.status.in_((RequestStatus.ACCEPTED, RequestStatus.PROCESSING)),
        )
        .order_by(Erasure.id)
        .limit(1)
    ).first()
    if other is None:
        return False
    asked = [erasure.request_id for erasure in ours]
    held = session.scalar(
        select(func.sum(DeletionRequest.matched)).where(DeletionRequest.id.in_(asked))
    )
    fits = (held or 0) + other[1].matched <= policy.max_records
    waited = now - other[0].created_at >= timedelta(seconds=policy.max_wait_seconds)
    return fits and waited and len(ours) < policy.max_records


def _contains_any(session: Session, model: Model, live: Version, batch: Batch) -> bool:
    """Return whether the live version contains a record that the batch's requests name.

    The batch's rows are not enough: they were in its base, and a version of another anchor, trained
    on other rows, may contain others that are named.
    """
    asked = [erasure.request_id for erasure in execution.erasures_of(session, batch)]
    wanted = select(Record.row).where(
        Record.dataset_id == model.dataset_id, lineage.contained(session, live)
    )
    return any(
        session.scalar(wanted.where(theirs).limit(1)) is not None
        for theirs in naming.named(naming.Names.of_ids(session, asked))
    )


def _set_end(
    session: Session, batch: Batch, version: Version, ends: datetime, *, actor: str
) -> None:
    batch.held_until = ends
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.BATCH_HELD,
        subject=f"batch:{batch.id}",
        data={"version": version.number, "until": canonical.moment(ends)},
    )


def _say_until(
    session: Session, model: Model, batch: Batch, version: Version, ends: datetime
) -> None:
    _say_why(
        session,
        batch,
        f"version {version.number} of model {model.name} waits for approval, since "
        f"{BECAUSE[version.mark or ACCURACY]}; it goes live by itself at {canonical.moment(ends)}"
        + ("; newer requests are judged together with it" if version.mark == MEMORISED else ""),
    )


def say_next(session: Session, batch: Batch, version: Version, *, method: str) -> None:
    """Say in the batch's requests that ``method`` follows a version of memorised records."""
    _say_why(
        session,
        batch,
        f"version {version.number} does not go live, since {BECAUSE[MEMORISED]}; {method} "
        "is tried next",
    )


def _say_why(session: Session, batch: Batch, reason: str | None) -> None:
    theirs = select(Erasure.request_id).where(erasures.of_batch(batch))
    session.execute(
        update(DeletionRequest)
        .where(DeletionRequest.id.in_(theirs), DeletionRequest.status == RequestStatus.PROCESSING)
        .values(status_reason=reason)
        .execution_options(synchronize_session="fetch")
    )
