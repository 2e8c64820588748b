"""Purges of weights: which versions are to be destroyed, with all that was kept beside them.

The weights of an anchor are internal state while a live version still steps from them: they stay
until the chain ends with the next training, or is withdrawn. A withdrawn model is purged with its
last version. How a dataset goes is in ``removals``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from service.ledger import audit, locks, versions
from service.ledger.policy import Policy
from service.ledger.states import VERSION_MOVES, VersionStatus, check_move
from service.ledger.tables import Artifact, Batch, Dataset, Model, TrainingRun, Version

Kind = Literal["checkpoints", "caches", "states", "logs", "scores", "trainings"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def due(session: Session, *, now: datetime) -> list[int]:
    """Ids of the versions to destroy: their window is over and nothing live needs them.

    Withdrawn and retired ones, those that a batch made and its verification rejected, and imports
    that were refused: they may still carry what they were to forget, and are never promoted.
    """
    live = aliased(Version)
    rows = session.execute(
        select(Version, Model, live.anchor_id)
        .join(Model, Model.id == Version.model_id)
        .outerjoin(live, live.id == Model.production_id)
        .where(
            or_(
                Version.status.in_([VersionStatus.RETIRED, VersionStatus.WITHDRAWN]),
                and_(
                    Version.status == VersionStatus.REJECTED,
                    or_(Version.batch_id.is_not(None), Version.origin == "imported"),
                ),
            )
        )
        .order_by(Version.id)
    ).all()
    return [
        version.id
        for version, model, live_anchor in rows
        if version.id not in {live_anchor, model.production_id}
        and _moment(version, model) <= now
        and not _is_base(session, version)
    ]


def doomed(session: Session, version: Version) -> list[tuple[Kind, str]]:
    """(kind, digest) of the files that go with the version and that no other version shares."""
    files: list[tuple[Kind, str]] = []
    shared = session.scalar(
        select(Version.id)
        .where(
            Version.digest == version.digest,
            Version.id != version.id,
            Version.status != VersionStatus.PURGED,
        )
        .limit(1)
    )
    if shared is None:
        files.append(("checkpoints", version.digest))
    going = _artifacts(session, version)
    for artifact in going:
        elsewhere = session.scalar(
            select(Artifact.id)
            .where(
                Artifact.digest == artifact.digest,
                Artifact.id.not_in([one.id for one in going]),
                Artifact.destroyed_at.is_(None),
            )
            .limit(1)
        )
        if elsewhere is None:
            files.append((_kind(artifact), artifact.digest))
    return files


def record(
    session: Session,
    model: Model,
    version: Version,
    *,
    receipt: dict[str, Any],
    actor: str,
    now: datetime,
) -> None:
    """The files are gone: the row stays as history, with the signed receipt in the chain."""
    check_move(VERSION_MOVES, version.status, VersionStatus.PURGED)
    version.status = VersionStatus.PURGED
    version.purged_at = now
    for artifact in _artifacts(session, version):
        artifact.destroyed_at = now
    session.flush()
    audit.append(
        session,
        actor=actor,
        action=audit.Action.VERSION_PURGED,
        subject=versions.subject(model, version),
        data={"receipt": receipt},
    )


def finished_models(session: Session) -> Sequence[Model]:
    """Withdrawn models of which every version is destroyed, and that are not marked so yet."""
    standing = exists().where(Version.model_id == Model.id, Version.status != VersionStatus.PURGED)
    return session.scalars(
        select(Model)
        .where(Model.withdrawn_at.is_not(None), Model.purged_at.is_(None), ~standing)
        .order_by(Model.id)
    ).all()


def versions_of(session: Session, model: Model) -> list[dict[str, Any]]:
    """Numbers, digests and ends of the model's versions, for its receipt."""
    rows = session.scalars(
        select(Version).where(Version.model_id == model.id).order_by(Version.number)
    )
    return [
        {"version": row.number, "digest": row.digest, "purged_at": row.purged_at} for row in rows
    ]


def record_model(
    session: Session, model: Model, *, receipt: dict[str, Any], actor: str, now: datetime
) -> None:
    """Nothing of the model is left but its history; the signed receipt goes into the chain."""
    [model] = locks.models(session, [model.id])
    if model.purged_at is not None:
        return  # another worker was quicker
    model.purged_at = now
    session.flush()
    audit.append(
        session,
        actor=actor,
        action=audit.Action.MODEL_PURGED,
        subject=f"model:{model.name}",
        data={"receipt": receipt},
    )


def files_in_use(session: Session) -> dict[str, set[str]]:
    """Digests per kind, and keys of arrays, that the ledger refers to."""
    keep: dict[str, set[str]] = {kind: set() for kind in KINDS}
    keep["checkpoints"] = set(
        session.scalars(select(Version.digest).where(Version.status != VersionStatus.PURGED))
    )
    for artifact in session.scalars(select(Artifact).where(Artifact.destroyed_at.is_(None))):
        keep[_kind(artifact)].add(artifact.digest)
    keep["trainings"] = {
        digest
        for digest in session.scalars(
            select(TrainingRun.state_digest).where(TrainingRun.state_digest.is_not(None))
        )
        if digest is not None
    }
    keep["arrays"] = {
        key
        for key in session.scalars(select(Dataset.array_key).where(Dataset.array_key.is_not(None)))
        if key is not None
    }
    return keep


def _artifacts(session: Session, version: Version) -> Sequence[Artifact]:
    theirs = Version.id == version.id
    if version.id == version.anchor_id:
        # With the anchor goes what its purged successors had to leave behind, and, once another
        # chain is live, what published ones keep: sums over forgotten rows, of use to nobody.
        left = Version.anchor_id == version.id
        if _chain_lives(session, version):
            left = and_(left, Version.status == VersionStatus.PURGED)
        theirs = or_(theirs, left)
    wanted = select(Artifact).where(
        Artifact.version_id.in_(select(Version.id).where(theirs)),
        Artifact.destroyed_at.is_(None),
    )
    if _chain_lives(session, version):
        # Small batches are judged together with earlier ones: their scores go with the chain.
        wanted = wanted.where(Artifact.kind != "scores")
    return session.scalars(wanted).all()


def _chain_lives(session: Session, version: Version) -> bool:
    model = session.get_one(Model, version.model_id)
    if model.production_id is None:
        return False
    return session.get_one(Version, model.production_id).anchor_id == version.anchor_id


def _is_base(session: Session, version: Version) -> bool:
    """Whether a running batch starts from it."""
    found = session.scalar(
        select(Batch.id)
        .where(Batch.base_version_id == version.id, Batch.status == "running")
        .limit(1)
    )
    return found is not None


def _kind(artifact: Artifact) -> Kind:
    # References are weights like any other, stored among the checkpoints.
    return "checkpoints" if artifact.kind == "references" else artifact.kind  # type: ignore[return-value]  # the table's kinds are the store's


def _moment(version: Version, model: Model) -> datetime:
    """When the version is to be destroyed."""
    if version.status == VersionStatus.WITHDRAWN and version.purge_at is not None:
        return version.purge_at
    return (version.retired_at or version.created_at) + _window(model)


def _window(model: Model) -> timedelta:
    return timedelta(seconds=Policy.model_validate(model.policy).purge_after_seconds)
