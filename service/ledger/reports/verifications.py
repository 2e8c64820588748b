"""Verifications: the measurements of a version, stored once."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database.tables import Model, Verification, Version
from service.ledger.registry import versions
from service.ledger.reports import shown_batches, shown_sets
from service.ledger.reports.disclosure import FORGOTTEN


def store(
    session: Session,
    model: Model,
    version: Version,
    *,
    measured: dict[str, Any],
    data_revision: int,
    actor: str,
    now: datetime,
) -> Verification:
    """Store what was measured on the rows not excluded at ``data_revision``, with its verdict.

    The caller has called ``shown_sets.hold`` for the model's dataset.
    """
    rows = shown_sets.show(session, model.dataset_id, version.record_list_id, data_revision)
    if apart := shown_batches.apart(session, version):
        rows[FORGOTTEN] = apart
    made = Verification(
        version_id=version.id,
        verdict=measured["verdict"],
        measured=measured,
        set_changes={"revision": data_revision, "rows": rows},
        created_at=now,
    )
    session.add(made)
    session.flush()
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_VERIFIED,
        subject=versions.subject(model, version),
        data={"verdict": made.verdict},
    )
    return made


def of(session: Session, version: Version) -> Verification | None:
    """Return the version's verification, or None if it has none yet."""
    return session.scalar(select(Verification).where(Verification.version_id == version.id))
