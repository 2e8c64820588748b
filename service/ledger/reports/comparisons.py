"""The comparison of an approximate version with the exact one trained after it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.tables import Model, Version
from service.ledger.registry import versions
from service.ledger.reports import disclosure

#: Key of the comparison among a version's notes.
NOTE = "comparison"


def store(
    session: Session,
    model: Model,
    version: Version,
    *,
    measured: dict[str, Any],
    set_changes: dict[str, Any] | None,
    actor: str,
) -> None:
    """Store the comparison of the exact ``version`` with the version that was live before.

    ``set_changes`` are those of the exact version's verification, measured on the same rows.
    """
    exact = {"version": version.number, "digest": version.digest}
    found = {"exact": exact, **measured, "set_changes": set_changes}
    version.notes = version.notes | {NOTE: found}
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_COMPARED,
        subject=versions.subject(model, version),
        data={"with": measured["approximate"]},
    )


def of(session: Session, version: Version) -> dict[str, Any] | None:
    """Return a version's comparison; for an approximate one, that of the first exact version after.

    The exact one was compared with whichever version of the chain was live then. Figures of sets
    that a few rows left shortly before are withheld.
    """
    found = _stored(session, version)
    return None if found is None else disclosure.comparison(found)


def _stored(session: Session, version: Version) -> dict[str, Any] | None:
    own: dict[str, Any] | None = version.notes.get(NOTE)
    if own is not None or version.id == version.anchor_id:
        return own
    chained = set(
        session.scalars(select(Version.number).where(Version.anchor_id == version.anchor_id))
    )
    later = session.scalars(
        select(Version)
        .where(
            Version.model_id == version.model_id,
            Version.number > version.number,
            Version.training_run_id.is_not(None),
        )
        .order_by(Version.number)
    )
    found = (other.notes.get(NOTE) for other in later)
    return next((one for one in found if one and one["approximate"]["version"] in chained), None)
