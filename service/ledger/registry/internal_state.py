"""Files of internal state that belong to versions: register them and find them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Artifact, Version
from service.ledger.registry import versions


def attach(
    session: Session, version: Version, made: Sequence[dict[str, Any]], *, now: datetime
) -> None:
    """Register internal state of a version; the same content twice is one artifact.

    Each of ``made`` has ``kind``, ``digest``, ``size_bytes`` and perhaps ``notes``.
    """
    known = set() if versions.made_here(session, version) else _attached(session, version, made)
    session.add_all(
        Artifact(
            version_id=version.id,
            kind=one["kind"],
            digest=one["digest"],
            size_bytes=one["size_bytes"],
            notes=one.get("notes") or {},
            created_at=now,
        )
        for one in made
        if (one["kind"], one["digest"]) not in known
    )
    session.flush()


def _attached(
    session: Session, version: Version, made: Sequence[dict[str, Any]]
) -> set[tuple[str, str]]:
    rows = session.execute(
        select(Artifact.kind, Artifact.digest).where(
            Artifact.version_id == version.id,
            Artifact.digest.in_([one["digest"] for one in made]),
            Artifact.destroyed_at.is_(None),
        )
    )
    return {(kind, digest) for kind, digest in rows}


def newest_by_kind(
    session: Session, version_ids: Collection[int]
) -> dict[tuple[int, str], Artifact]:
    """Return the newest existing artifact per version and kind."""
    wanted = select(Artifact).where(
        Artifact.version_id.in_(version_ids), Artifact.destroyed_at.is_(None)
    )
    found = session.scalars(wanted.order_by(Artifact.id))
    return {(one.version_id, one.kind): one for one in found}


def newest(
    session: Session, version_id: int, kind: str, *, digest: str | None = None
) -> Artifact | None:
    """Return the newest existing artifact of a kind."""
    wanted = select(Artifact).where(
        Artifact.version_id == version_id, Artifact.kind == kind, Artifact.destroyed_at.is_(None)
    )
    if digest is not None:
        wanted = wanted.where(Artifact.digest == digest)
    return session.scalar(wanted.order_by(Artifact.id.desc()).limit(1))
