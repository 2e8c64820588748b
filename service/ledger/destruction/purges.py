"""Purges: which versions are to be destroyed, with all their internal state.

The weights of an anchor are internal state while a live version still steps from them: they are
kept until the chain ends with the next training, or is withdrawn. A withdrawn model is purged with
its last version. Internal state that is destroyed before its version is in ``superseded``, and
datasets are removed in ``removals``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, union_all
from sqlalchemy.orm import Session

from service.ledger.audit import chain, machines
from service.ledger.database import db, locks
from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import Artifact, Batch, Model, Version
from service.ledger.destruction import stored_files
from service.ledger.registry import versions
from service.ledger.registry.policy import Policy

#: States of a version from which no batch starts any more.
OVER = (VersionStatus.RETIRED, VersionStatus.REJECTED, VersionStatus.WITHDRAWN)


def due(session: Session, *, now: datetime) -> list[int]:
    """Return ids of the versions to destroy: their time is over and nothing live needs them.

    Withdrawn and retired versions, those that a batch made and its verification rejected, and
    refused imports: they may still contain what they were to forget, and are never promoted.
    """
    models = session.execute(select(Model.id, Model.policy, Model.production_id)).all()
    windows: dict[timedelta, list[int]] = {}
    for model_id, policy, _ in models:
        windows.setdefault(_window(policy), []).append(model_id)
    if not windows:
        return []
    wanted = [
        select(Version.id).where(which, Version.model_id.in_(model_ids))
        for window, model_ids in windows.items()
        # Two queries: for the retired versions an index has those that are due.
        for which in (_retired(until=now - window), _given_up(now=now, until=now - window))
    ]
    over = session.scalars(union_all(*wanted)).all()
    if not over:
        return []
    needed = {live_id for _, _, live_id in models if live_id is not None}
    needed |= set(session.scalars(select(Version.anchor_id).where(Version.id.in_(needed))))
    return [one for one in sorted(over) if one not in needed and not _is_base(session, one)]


def _retired(*, until: datetime) -> ColumnElement[bool]:
    """Return SQL: ``Version`` was retired by then."""
    return and_(db.among(Version.status, VersionStatus.RETIRED), Version.retired_at <= until)


def _given_up(*, now: datetime, until: datetime) -> ColumnElement[bool]:
    """Return SQL: ``Version`` was rejected, or withdrawn, by then; or is to be purged now."""
    withdrawn = and_(
        db.among(Version.status, VersionStatus.WITHDRAWN),
        or_(
            Version.purge_at <= now,
            and_(
                Version.purge_at.is_(None),
                func.coalesce(Version.retired_at, Version.created_at) <= until,
            ),
        ),
    )
    rejected = and_(
        db.among(Version.status, VersionStatus.REJECTED),
        or_(Version.batch_id.is_not(None), Version.origin == "imported"),
        Version.created_at <= until,
    )
    either = db.among(Version.status, VersionStatus.WITHDRAWN, VersionStatus.REJECTED)
    return and_(either, or_(withdrawn, rejected))


@dataclass(frozen=True)
class Planned:
    """Weights that are to be destroyed, and from when on, unless something live needs them then."""

    model: str
    number: int
    status: VersionStatus
    size_bytes: int
    at: datetime


def calendar(session: Session, *, limit: int) -> list[Planned]:
    """Return the versions that wait for their purge, the earliest first."""
    over = and_(
        db.among(Version.status, *OVER),
        or_(
            Version.status != VersionStatus.REJECTED,
            Version.batch_id.is_not(None),
            Version.origin == "imported",
        ),
    )
    # These columns alone: the others of a version are documents, of which fifty take their time.
    rows = session.execute(
        select(
            Model.name,
            Model.policy,
            Version.number,
            Version.status,
            Version.size_bytes,
            Version.purge_at,
            func.coalesce(Version.retired_at, Version.created_at),
        )
        .join(Model, Model.id == Version.model_id)
        .where(over)
        .order_by(func.coalesce(Version.purge_at, Version.retired_at, Version.created_at))
        .limit(limit)
    )
    planned = [
        Planned(
            model=name,
            number=number,
            status=status,
            size_bytes=size_bytes,
            at=purge_at or over_since + _window(policy),
        )
        for name, policy, number, status, size_bytes, purge_at, over_since in rows
    ]
    return sorted(planned, key=lambda one: (one.at, one.model, one.number))


def files_of_version(session: Session, version: Version) -> list[tuple[stored_files.Kind, str]]:
    """Return (kind, digest) of the files that belong to this version alone."""
    return stored_files.unshared(session, _artifacts(session, version), version=version)


def record(
    session: Session,
    model: Model,
    version: Version,
    *,
    receipt: dict[str, Any],
    actor: str,
    now: datetime,
) -> None:
    """Record that the files are destroyed: the row stays, with the signed receipt in the chain."""
    machines.versions.move(version, VersionStatus.PURGED)
    version.purged_at = now
    _destroyed(session, _artifacts(session, version), now=now)
    subject = versions.subject(model, version)
    _say(session, chain.Action.VERSION_PURGED, subject, receipt, actor=actor)


def record_state(
    session: Session,
    model: Model,
    version: Version,
    *,
    artifact_ids: Sequence[int],
    receipt: dict[str, Any],
    actor: str,
    now: datetime,
) -> None:
    """Record that the files of these artifacts are gone; the version's weights stay."""
    going = session.scalars(select(Artifact).where(Artifact.id.in_(artifact_ids)))
    _destroyed(session, going, now=now)
    subject = versions.subject(model, version)
    _say(session, chain.Action.VERSION_STATE_DESTROYED, subject, receipt, actor=actor)


def finished_models(session: Session) -> Sequence[Model]:
    """Return withdrawn models, not yet marked as purged, all of whose versions are destroyed."""
    standing = exists().where(Version.model_id == Model.id, Version.status != VersionStatus.PURGED)
    return session.scalars(
        select(Model)
        .where(Model.withdrawn_at.is_not(None), Model.purged_at.is_(None), ~standing)
        .order_by(Model.id)
    ).all()


def versions_of(session: Session, model: Model) -> list[dict[str, Any]]:
    """Return numbers, digests and purge times of the model's versions, for its receipt."""
    rows = session.scalars(
        select(Version).where(Version.model_id == model.id).order_by(Version.number)
    )
    return [
        {"version": row.number, "digest": row.digest, "purged_at": row.purged_at} for row in rows
    ]


def record_model(
    session: Session, model: Model, *, receipt: dict[str, Any], actor: str, now: datetime
) -> None:
    """Mark the model as purged; put the signed receipt into the chain."""
    [model] = locks.models(session, [model.id])
    if model.purged_at is not None:
        return  # another worker did it first
    model.purged_at = now
    session.flush()
    _say(session, chain.Action.MODEL_PURGED, f"model:{model.name}", receipt, actor=actor)


def _destroyed(session: Session, artifacts: Iterable[Artifact], *, now: datetime) -> None:
    for artifact in artifacts:
        artifact.destroyed_at = now
    session.flush()


def _say(
    session: Session, action: chain.Action, subject: str, receipt: dict[str, Any], *, actor: str
) -> None:
    chain.append(session, actor=actor, action=action, subject=subject, data={"receipt": receipt})


def _artifacts(session: Session, version: Version) -> Sequence[Artifact]:
    theirs = Version.id == version.id
    if version.id == version.anchor_id:
        # With the anchor go what its purged successors had to leave behind and, once another chain
        # is live, the running sums of published versions, which nothing needs any more.
        left = Version.anchor_id == version.id
        if _chain_lives(session, version):
            left = and_(left, Version.status == VersionStatus.PURGED)
        theirs = or_(theirs, left)
    wanted = select(Artifact).where(
        Artifact.version_id.in_(select(Version.id).where(theirs)),
        Artifact.destroyed_at.is_(None),
    )
    if _chain_lives(session, version):
        # Small batches are pooled with earlier ones, so scores go with the chain.
        wanted = wanted.where(Artifact.kind != "scores")
    return session.scalars(wanted).all()


def _chain_lives(session: Session, version: Version) -> bool:
    model = session.get_one(Model, version.model_id)
    if model.production_id is None:
        return False
    return session.get_one(Version, model.production_id).anchor_id == version.anchor_id


def _is_base(session: Session, version_id: int) -> bool:
    """Return whether a running batch starts from it."""
    found = session.scalar(
        select(Batch.id)
        .where(db.among(Batch.status, BatchStatus.RUNNING), Batch.base_version_id == version_id)
        .limit(1)
    )
    return found is not None


def _window(policy: dict[str, Any]) -> timedelta:
    return timedelta(seconds=Policy.model_validate(policy).purge_after_seconds)
