"""What must hold of what operators decide: holds end in time, and what is withdrawn is gone."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.states import BatchStatus, DatasetStatus, VersionStatus
from service.ledger.database.tables import (
    AliasMove,
    AuditEvent,
    Batch,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    TrainingRun,
    Version,
)
from service.ledger.obligations import shares
from service.ledger.training import runs
from tests.faults.fleet import Fleet
from tests.faults.kinds import Broken, Kind, of
from tests.faults.plan import Withdrawal

_GONE = (VersionStatus.WITHDRAWN, VersionStatus.PURGED)


def broken(fleet: Fleet, session: Session) -> list[Broken]:
    """Every promise to operators that does not hold."""
    return [
        *of(Kind.LOST, _held(session)),
        *of(Kind.OTHER, _went_live_too_early_or_too_late(session)),
        *of(Kind.MISSING, _answered(fleet, session)),
        *of(Kind.RESURRECTED, _back_again(session)),
        *of(Kind.LOST, _still_open(session)),
        *of(Kind.OTHER, _not_destroyed(fleet, session)),
        *of(Kind.REPEATED, _receipts(session)),
    ]


def shown(fleet: Fleet) -> list[Broken]:
    """Over HTTP nothing that is withdrawn is handed out."""
    found = []
    for one in fleet.withdrawn:
        if one.kind == "dataset":
            continue
        numbers = [one.number or 0]
        if one.kind == "model":
            versions = fleet.listed(f"/v1/models/{one.name}/versions")
            numbers = [version["number"] for version in versions]
        for number in numbers:
            path = f"/v1/models/{one.name}/versions/{number}/checkpoint"
            answered = fleet.status(path)
            if answered != 410:
                found.append(f"{one} is withdrawn, and {path} is answered {answered}")
    return of(Kind.RESURRECTED, found)


def _held(session: Session) -> list[str]:
    held = session.scalars(select(Batch.id).where(Batch.status == BatchStatus.HELD))
    return [f"batch {one} is still held" for one in held]


def _went_live_too_early_or_too_late(session: Session) -> list[str]:
    """A held version went live when it was approved, or when its hold ended, before it was due."""
    found = []
    approved = set(
        session.scalars(select(AuditEvent.subject).filter_by(action=chain.Action.VERSION_APPROVED))
    )
    moved: dict[int, datetime] = {}
    for move in session.scalars(select(AliasMove).order_by(AliasMove.id.desc())):
        if move.version_id is not None:
            moved[move.version_id] = move.moved_at
    for batch in session.scalars(select(Batch).where(Batch.held_until.is_not(None))):
        at = moved.get(batch.version_id or 0)
        if at is None:
            continue
        version = session.get_one(Version, batch.version_id)
        if version.batch_id != batch.id:
            continue  # another version without the records went live, and ended the hold
        model = session.get_one(Model, batch.model_id)
        due = session.scalar(
            select(func.min(DeletionRequest.due_at))
            .join(Erasure, Erasure.request_id == DeletionRequest.id)
            .where(Erasure.batch_id == batch.id)
        )
        decided = f"version:{model.name}/{version.number}" in approved
        assert batch.held_until is not None
        if at < batch.held_until and not decided:
            found.append(f"version {version.number} of {model.name} went live before its time")
        if due is not None and at > due:
            found.append(f"version {version.number} of {model.name} was held beyond the due date")
    return found


def _answered(fleet: Fleet, session: Session) -> list[str]:
    """What an operator was told is withdrawn is withdrawn in the ledger."""
    return [
        f"{one} was withdrawn, said the API, and is not"
        for one in fleet.withdrawn
        if not _is_withdrawn(session, one)
    ]


def _is_withdrawn(session: Session, one: Withdrawal) -> bool:
    if one.kind == "dataset":
        found = session.scalar(select(Dataset.withdrawn_at).where(Dataset.name == one.name))
    elif one.kind == "model":
        found = session.scalar(select(Model.withdrawn_at).where(Model.name == one.name))
    else:
        found = session.scalar(
            select(Version.id)
            .join(Model, Model.id == Version.model_id)
            .where(
                Model.name == one.name,
                Version.number == one.number,
                # A batch that ended first has retired it, and there is nothing left to take back.
                Version.status.in_(_GONE),
            )
        )
    return found is not None


def _back_again(session: Session) -> list[str]:
    """What is withdrawn is not live, has not become so since, and is not trained."""
    found = []
    for version in session.scalars(select(Version).where(Version.withdrawn_at.is_not(None))):
        if version.status not in _GONE:
            found.append(f"version id {version.id} was withdrawn and is {version.status}")
        later = session.scalar(
            select(AliasMove.id).where(
                AliasMove.version_id == version.id, AliasMove.moved_at > version.withdrawn_at
            )
        )
        if later is not None:
            found.append(f"version id {version.id} went live after it was withdrawn")
    live = select(Model.name).join(Version, Version.id == Model.production_id)
    for name in session.scalars(live.where(Version.withdrawn_at.is_not(None))):
        found.append(f"production of {name} is withdrawn")
    withdrawn = Model.withdrawn_at.is_not(None)
    for name in session.scalars(
        select(Model.name).where(withdrawn, Model.production_id.is_not(None))
    ):
        found.append(f"model {name} is withdrawn and has a live version")
    standing = select(Version.id).join(Model, Model.id == Version.model_id)
    for one in session.scalars(standing.where(withdrawn, Version.status.not_in(_GONE))):
        found.append(f"version id {one} of a withdrawn model is not withdrawn")
    return found


def _still_open(session: Session) -> list[str]:
    """Nothing is asked of a withdrawn model any more, and nothing runs on it."""
    withdrawn = Model.withdrawn_at.is_not(None)
    waiting = session.scalars(
        select(Erasure.id)
        .join(Model, Model.id == Erasure.model_id)
        .where(withdrawn, Erasure.status.in_(shares.OPEN))
    )
    running = session.scalars(
        select(TrainingRun.id)
        .join(Model, Model.id == TrainingRun.model_id)
        .where(withdrawn, TrainingRun.status.in_(runs.ACTIVE))
    )
    return [f"erasure {one} waits for a withdrawn model" for one in waiting] + [
        f"training run {one} of a withdrawn model has not ended" for one in running
    ]


def _not_destroyed(fleet: Fleet, session: Session) -> list[str]:
    """What is withdrawn is destroyed in the end, files and what identified the records."""
    found = []
    for name in session.scalars(
        select(Model.name).where(Model.withdrawn_at.is_not(None), Model.purged_at.is_(None))
    ):
        found.append(f"model {name} is withdrawn and not destroyed")
    for dataset in session.scalars(select(Dataset).where(Dataset.withdrawn_at.is_not(None))):
        if dataset.status != DatasetStatus.PURGED:
            found.append(f"dataset {dataset.name} is withdrawn and {dataset.status}")
        key = dataset.array_key
        if key is not None and fleet.store.rows.exists(key):
            found.append(f"the array of {dataset.name} is there, which is withdrawn")
        names = session.scalars(select(Record.record_id).where(Record.dataset_id == dataset.id))
        known = set(fleet.sources[dataset.name].record_ids) & set(names)
        if known:
            found.append(f"{len(known)} records of {dataset.name} have kept their ids")
    return found


def _receipts(session: Session) -> list[str]:
    """Each thing is withdrawn once and destroyed once in the audit chain."""
    once = (
        chain.Action.VERSION_WITHDRAWN,
        chain.Action.VERSION_PURGED,
        chain.Action.MODEL_WITHDRAWN,
        chain.Action.MODEL_PURGED,
        chain.Action.DATASET_WITHDRAWN,
        chain.Action.DATASET_PURGED,
    )
    lines = Counter(
        (subject, action)
        for subject, action in session.execute(
            select(AuditEvent.subject, AuditEvent.action).where(AuditEvent.action.in_(once))
        )
    )
    return [
        f"{subject} has {times} lines {action}"
        for (subject, action), times in lines.items()
        if times > 1
    ]
