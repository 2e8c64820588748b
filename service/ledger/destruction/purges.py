"""Purges: which versions are to be destroyed, with all their internal state.

The weights of an anchor are internal state while a live version still steps from them: they are
kept until the chain ends with the next training, or is withdrawn. A withdrawn model is purged with
its last version. Datasets are removed in ``removals``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    exists,
    func,
    literal_column,
    or_,
    select,
    union,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from service.ledger.audit import chain, machines
from service.ledger.batches import pools
from service.ledger.database import db, locks
from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import (
    Artifact,
    Batch,
    BatchState,
    Dataset,
    Encoder,
    Model,
    Tokenizer,
    TrainingRun,
    Version,
)
from service.ledger.registry import segments, versions
from service.ledger.registry.policy import Policy

Kind = Literal[
    "checkpoints",
    "caches",
    "states",
    "logs",
    "scores",
    "margins",
    "statistics",
    "trainings",
    "tokenizers",
    "encoders",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: States of a version from which no batch starts any more.
_OVER = (VersionStatus.RETIRED, VersionStatus.REJECTED, VersionStatus.WITHDRAWN)


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
        db.among(Version.status, *_OVER),
        or_(
            Version.status != VersionStatus.REJECTED,
            Version.batch_id.is_not(None),
            Version.origin == "imported",
        ),
    )
    rows = session.execute(
        select(Version, Model.name, Model.policy)
        .join(Model, Model.id == Version.model_id)
        .where(over)
        .order_by(func.coalesce(Version.purge_at, Version.retired_at, Version.created_at))
        .limit(limit)
    )
    planned = [
        Planned(
            model=name,
            number=version.number,
            status=version.status,
            size_bytes=version.size_bytes,
            at=version.purge_at or (version.retired_at or version.created_at) + _window(policy),
        )
        for version, name, policy in rows
    ]
    return sorted(planned, key=lambda one: (one.at, one.model, one.number))


def files_of_version(session: Session, version: Version) -> list[tuple[Kind, str]]:
    """Return (kind, digest) of the files that belong to this version alone."""
    return _unshared(session, _artifacts(session, version), version=version)


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


def models_with_superseded(session: Session) -> list[int]:
    """Return ids of models with running sums, statistics or margins that no batch needs any more.

    Scores that no pool uses any more are found with them: each batch leaves both.
    """
    old = (one.with_only_columns(Version.model_id) for one in (_old_sums(), _old_margins()))
    return list(session.scalars(union(*old)))


def superseded(session: Session, model: Model) -> dict[int, list[int]]:
    """Return ids of the model's artifacts that no batch needs any more, by version.

    Running sums and statistics of versions that were retired, rejected or withdrawn: the next batch
    uses those of the live version, or of one to which production was moved back. Scores that are
    older than the pool of every version from which a batch may start. And margins of another anchor
    than the live version's, and those that the policy does not ask for any more.
    """
    sums = session.scalars(_old_sums().where(Version.model_id == model.id).order_by(Artifact.id))
    found: dict[int, list[int]] = {}
    old_margins = session.scalars(_old_margins().where(Version.model_id == model.id))
    for artifact in (*sums, *_old_scores(session, model), *old_margins):
        found.setdefault(artifact.version_id, []).append(artifact.id)
    return found


def _old_sums() -> Select[Any]:
    is_base = exists().where(
        db.among(Batch.status, BatchStatus.RUNNING), Batch.base_version_id == Version.id
    )
    return (
        select(Artifact)
        .join(Version, Version.id == Artifact.version_id)
        .where(
            db.among(Artifact.kind, "states", "statistics"),
            Artifact.destroyed_at.is_(None),
            Version.status.in_(_OVER),
            ~is_base,
        )
    )


def _old_margins() -> Select[Any]:
    live = aliased(Version)
    newer = aliased(Artifact)
    of_live_anchor = exists().where(live.id == Model.production_id, live.anchor_id == Version.id)
    replaced = exists().where(
        newer.version_id == Artifact.version_id,
        newer.kind == Artifact.kind,
        newer.destroyed_at.is_(None),
        newer.id > Artifact.id,
    )
    return (
        select(Artifact)
        .join(Version, Version.id == Artifact.version_id)
        .join(Model, Model.id == Version.model_id)
        .where(
            db.among(Artifact.kind, "margins"),
            Artifact.destroyed_at.is_(None),
            or_(
                ~of_live_anchor,
                replaced,
                Model.policy["margins", "splits"].as_integer() == literal_column("0"),
            ),
        )
    )


def files_of(session: Session, artifact_ids: Sequence[int]) -> list[tuple[Kind, str]]:
    """Return (kind, digest) of these artifacts' files, without those that others share."""
    going = session.scalars(select(Artifact).where(Artifact.id.in_(artifact_ids))).all()
    return _unshared(session, going)


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


def files_in_use(session: Session) -> dict[str, set[str]]:
    """Return digests per kind, and keys of arrays, that the ledger refers to."""
    keep: dict[str, set[str]] = {kind: set() for kind in KINDS}
    keep["checkpoints"] = set(
        session.scalars(select(Version.digest).where(Version.status != VersionStatus.PURGED))
    )
    for artifact in session.scalars(select(Artifact).where(Artifact.destroyed_at.is_(None))):
        keep[kind_in_store(artifact.kind)].add(artifact.digest)
    of_runs = select(TrainingRun.state_digest).where(TrainingRun.state_digest.is_not(None))
    of_batches = select(BatchState.digest)
    keep["trainings"] = {
        digest for digest in session.scalars(of_runs.union(of_batches)) if digest is not None
    }
    keep["tokenizers"] = set(session.scalars(select(Tokenizer.digest)))
    keep["encoders"] = {
        digest
        for row in session.execute(select(Encoder.digest, Encoder.weights_digest))
        for digest in row
        if digest is not None
    }
    keep["arrays"] = {
        key
        for key in session.scalars(select(Dataset.array_key).where(Dataset.array_key.is_not(None)))
        if key is not None
    } | segments.keys_in_use(session)
    return keep


def is_in_use(session: Session, kind: Kind, digest: str) -> bool:
    """Return whether the ledger refers to the file."""
    named: dict[str, list[Select[Any]]] = {
        "checkpoints": [
            select(Version.id).where(
                Version.digest == digest, Version.status != VersionStatus.PURGED
            )
        ],
        "trainings": [
            select(TrainingRun.id).where(TrainingRun.state_digest == digest),
            select(BatchState.batch_id).where(BatchState.digest == digest),
        ],
    }
    named["tokenizers"] = [select(Tokenizer.digest).where(Tokenizer.digest == digest)]
    named["encoders"] = [
        select(Encoder.name).where(or_(Encoder.digest == digest, Encoder.weights_digest == digest))
    ]
    of_versions = select(Artifact.id).where(
        Artifact.digest == digest, Artifact.destroyed_at.is_(None)
    )
    wanted = [*named.get(kind, []), of_versions]
    return any(session.scalar(one.limit(1)) is not None for one in wanted)


def _destroyed(session: Session, artifacts: Iterable[Artifact], *, now: datetime) -> None:
    for artifact in artifacts:
        artifact.destroyed_at = now
    session.flush()


def _say(
    session: Session, action: chain.Action, subject: str, receipt: dict[str, Any], *, actor: str
) -> None:
    chain.append(session, actor=actor, action=action, subject=subject, data={"receipt": receipt})


def _unshared(
    session: Session, going: Sequence[Artifact], *, version: Version | None = None
) -> list[tuple[Kind, str]]:
    """Return (kind, digest) of the files that only these artifacts, and ``version``, refer to."""
    files = [(kind_in_store(one.kind), one.digest) for one in going]
    if version is not None:
        files.insert(0, ("checkpoints", version.digest))
    digests = [digest for _, digest in files]
    others = select(Artifact.kind, Artifact.digest).where(
        Artifact.digest.in_(digests),
        Artifact.id.not_in([one.id for one in going]),
        Artifact.destroyed_at.is_(None),
    )
    shared = {(kind_in_store(kind), digest) for kind, digest in session.execute(others)}
    versions_of_them = select(Version.digest).where(
        Version.digest.in_(digests), Version.status != VersionStatus.PURGED
    )
    if version is not None:
        versions_of_them = versions_of_them.where(Version.id != version.id)
    shared |= {("checkpoints", digest) for digest in session.scalars(versions_of_them)}
    return [file for file in files if file not in shared]


def _old_scores(session: Session, model: Model) -> list[Artifact]:
    """Return scores of withdrawn versions of the model that no pool uses any more."""
    rows = pools.rows_wanted(Policy.model_validate(model.policy))
    usable = session.scalars(
        select(Version).where(
            Version.model_id == model.id,
            Version.status.in_([VersionStatus.PUBLISHED, VersionStatus.CANDIDATE]),
        )
    )
    needed = {one.id for version in usable for one in pools.scores(session, version, rows=rows)}
    kept = session.scalars(
        select(Artifact)
        .join(Version, Version.id == Artifact.version_id)
        .where(
            Version.model_id == model.id,
            Version.status.in_([*_OVER, VersionStatus.PURGED]),
            Artifact.kind == "scores",
            Artifact.destroyed_at.is_(None),
        )
        .order_by(Artifact.id)
    )
    return [one for one in kept if one.id not in needed]


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


def kind_in_store(kind: str) -> Kind:
    """Return under which kind of file the store has internal state of a kind."""
    # References are weights, stored among the checkpoints.
    return "checkpoints" if kind == "references" else kind  # type: ignore[return-value]  # the table's kinds are the store's


def _window(policy: dict[str, Any]) -> timedelta:
    return timedelta(seconds=Policy.model_validate(policy).purge_after_seconds)
