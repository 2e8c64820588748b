"""What remains of forgotten records, in an audit report, and what was destroyed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.batches import batch_states
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import Artifact, AuditEvent, Model, Version
from service.ledger.registry import copies, forgotten, versions
from service.ledger.reports import report_loaded
from service.ledger.training import runs

#: Actions of audit lines that hold the receipt of something destroyed.
_DESTROYED = (chain.Action.VERSION_PURGED.value, chain.Action.VERSION_STATE_DESTROYED.value)

#: Kind of what is outside the service: a copy of weights in a model registry.
COPIES = "copies"

#: Kinds of artifacts that a batch computes from the rows that it forgets.
OF_FORGOTTEN = frozenset({"scores", "states"})


def remaining(session: Session, loaded: report_loaded.Loaded) -> list[dict[str, Any]]:
    """Return weights, their copies and internal state that still contain forgotten records."""
    standing = session.scalars(
        select(Version)
        .where(Version.model_id == loaded.model.id, Version.status != VersionStatus.PURGED)
        .order_by(Version.number)
    ).all()
    # Retired versions contain forgotten records by definition. There may be thousands. Withdrawn
    # ones may have been retired or rejected before.
    containing = [version for version in standing if _contains(session, loaded.model, version)]
    weights = [
        {
            "kind": "weights",
            "version": version.number,
            "digest": version.digest,
            "size_bytes": version.size_bytes,
            "status": version.status,
            "retired_at": version.retired_at,
        }
        for version in containing
    ]
    held = {version.id for version in containing}
    return [
        *weights,
        *_copies(session, loaded, held),
        *_artifacts(session, loaded, held),
        *_kept_states(session, loaded),
    ]


@dataclass(frozen=True)
class Stored:
    """Weights or internal state that are stored; ``remembers``: of records that were forgotten."""

    kind: str
    version: int
    size_bytes: int
    stored_at: datetime
    remembers: bool


def of_version(session: Session, model: Model, version: Version) -> list[Stored]:
    """Return what is stored of a version, and of the anchor from which it steps.

    None of it but the live version's weights is handed out; what remembers is destroyed after the
    policy's window, or with the last version that steps from it.
    """
    anchor = session.get_one(Version, version.anchor_id)
    owners = {version.id: version, anchor.id: anchor}
    holding = {id for id, owner in owners.items() if _contains(session, model, owner)}
    weights = [
        Stored("weights", owner.number, owner.size_bytes, owner.created_at, owner.id in holding)
        for owner in sorted(owners.values(), key=lambda one: -one.number)
        if owner.status != VersionStatus.PURGED
    ]
    artifacts = session.scalars(
        select(Artifact)
        .where(Artifact.version_id.in_(owners), Artifact.destroyed_at.is_(None))
        .order_by(Artifact.version_id.desc(), Artifact.id)
    )
    return weights + [
        Stored(
            one.kind,
            owners[one.version_id].number,
            one.size_bytes,
            one.created_at,
            _remembers(one, owners[one.version_id], holding),
        )
        for one in artifacts
    ]


def _contains(session: Session, model: Model, version: Version) -> bool:
    """Return whether the weights contain, or were not shown to lack, forgotten records."""
    if version.status in (VersionStatus.RETIRED, VersionStatus.WITHDRAWN):
        return True
    # Its verification did not show that it forgot.
    rejected = version.status == VersionStatus.REJECTED and version.batch_id is not None
    return rejected or forgotten.is_in(session, model, version)


def _remembers(artifact: Artifact, owner: Version, containing: set[int]) -> bool:
    """Return whether internal state was computed from records that were forgotten."""
    of_forgotten = owner.batch_id is not None and artifact.kind in OF_FORGOTTEN
    return of_forgotten or artifact.version_id in containing


def _copies(
    session: Session, loaded: report_loaded.Loaded, containing: set[int]
) -> list[dict[str, Any]]:
    """Return copies in the model registry of versions in ``containing``, and of purged ones.

    The registry may be away for longer than the service keeps its own weights.
    """
    return [
        {
            "kind": COPIES,
            "version": version.number,
            "digest": version.digest,
            "number": copy.number,
            "status": version.status,
            "registered_at": copy.registered_at,
        }
        for copy, version in copies.there(session, loaded.model)
        if version.id in containing or version.status == VersionStatus.PURGED
    ]


def _kept_states(session: Session, loaded: report_loaded.Loaded) -> list[dict[str, Any]]:
    """Return states of trainings that have seen records forgotten since they began."""
    of_runs = [
        {"kind": "trainings", "training_run": run.id, "digest": run.state_digest}
        for run in runs.that_saw_forgotten(session, loaded.model)
        if run.state_digest is not None
    ]
    of_batches = [
        {"kind": "trainings", "batch": state.batch_id, "digest": state.digest}
        for state in batch_states.that_saw_forgotten(session, loaded.model)
    ]
    return of_runs + of_batches


def _artifacts(
    session: Session, loaded: report_loaded.Loaded, containing: set[int]
) -> list[dict[str, Any]]:
    """Return artifacts of versions in ``containing``, and those computed from forgotten rows."""
    rows = session.execute(
        select(Artifact, Version)
        .join(Version, Version.id == Artifact.version_id)
        .where(Version.model_id == loaded.model.id, Artifact.destroyed_at.is_(None))
        .order_by(Artifact.id)
    )
    return [
        {
            "kind": artifact.kind,
            "version": owner.number,
            "digest": artifact.digest,
            "size_bytes": artifact.size_bytes,
            "created_at": artifact.created_at,
        }
        for artifact, owner in rows
        if _remembers(artifact, owner, containing)
    ]


def purges(session: Session, loaded: report_loaded.Loaded) -> list[dict[str, Any]]:
    """Return signed receipts of what was destroyed of this model."""
    purged = session.scalars(select(Version).where(Version.model_id == loaded.model.id))
    lines = session.scalars(
        select(AuditEvent)
        .where(
            AuditEvent.action.in_(_DESTROYED),
            AuditEvent.subject.in_([versions.subject(loaded.model, item) for item in purged]),
        )
        .order_by(AuditEvent.seq)
    )
    return [
        {"line": line.seq, "subject": line.subject, "receipt": line.data.get("receipt")}
        for line in lines
    ]
