"""Verifications: what was measured of a version, stored once."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger import audit, versions
from service.ledger.tables import Model, Verification, Version


def store(
    session: Session,
    model: Model,
    version: Version,
    *,
    measured: dict[str, Any],
    actor: str,
    now: datetime,
) -> Verification:
    """Keep what was measured, with its verdict."""
    made = Verification(
        version_id=version.id, verdict=measured["verdict"], measured=measured, created_at=now
    )
    session.add(made)
    session.flush()
    audit.append(
        session,
        actor=actor,
        action=audit.Action.VERSION_VERIFIED,
        subject=versions.subject(model, version),
        data={"verdict": made.verdict},
    )
    return made


def of(session: Session, version: Version) -> Verification | None:
    """The version's verification, if it has one yet."""
    return session.scalar(select(Verification).where(Verification.version_id == version.id))
