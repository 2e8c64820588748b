"""Files in the store that the ledger refers to: of which kind, whether in use, whether shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import (
    Artifact,
    BatchState,
    Encoder,
    Tokenizer,
    TrainingRun,
    Version,
)
from service.ledger.registry import segments

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


def files_of(session: Session, artifact_ids: Sequence[int]) -> list[tuple[Kind, str]]:
    """Return (kind, digest) of these artifacts' files, without those that others share."""
    going = session.scalars(select(Artifact).where(Artifact.id.in_(artifact_ids))).all()
    return unshared(session, going)


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
    keep["arrays"] = segments.keys_in_use(session)
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
        "tokenizers": [select(Tokenizer.digest).where(Tokenizer.digest == digest)],
        "encoders": [
            select(Encoder.name).where(
                or_(Encoder.digest == digest, Encoder.weights_digest == digest)
            )
        ],
    }
    of_versions = select(Artifact.id).where(
        Artifact.digest == digest, Artifact.destroyed_at.is_(None)
    )
    wanted = [*named.get(kind, []), of_versions]
    return any(session.scalar(one.limit(1)) is not None for one in wanted)


def unshared(
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


def kind_in_store(kind: str) -> Kind:
    """Return under which kind of file the store has internal state of a kind."""
    # References are weights, stored among the checkpoints.
    return "checkpoints" if kind == "references" else kind  # type: ignore[return-value]  # the table's kinds are the store's
