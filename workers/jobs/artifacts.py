"""Internal state that a computation stored, registered with the versions it belongs to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service.ledger.database.tables import Version
from service.ledger.registry import internal_state
from service.messages.parts import Made


def attach(session: Session, version: Version, artifacts: list[Made], *, now: datetime) -> None:
    """Register stored internal state; an anchor's cache belongs to the anchor."""
    of_anchor = [_artifact(made) for made in artifacts if made.of_anchor]
    if of_anchor:
        internal_state.attach(
            session, session.get_one(Version, version.anchor_id), of_anchor, now=now
        )
    of_version = [_artifact(made) for made in artifacts if not made.of_anchor]
    internal_state.attach(session, version, of_version, now=now)


def _artifact(made: Made) -> dict[str, Any]:
    return {
        "kind": made.kind,
        "digest": made.digest,
        "size_bytes": made.size_bytes,
        "notes": made.notes,
    }
