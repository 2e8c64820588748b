"""Verifications: the measurements of a version, stored once."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from service.ledger.audit import chain
from service.ledger.database.tables import Model, Verification, Version
from service.ledger.registry import versions
from service.ledger.reports import record_scores, shown_batches, shown_sets
from service.ledger.reports.disclosure import APART, FORGOTTEN, PAIR_AGAIN


def store(
    session: Session,
    model: Model,
    version: Version,
    *,
    measured: dict[str, Any],
    data_revision: int,
    actor: str,
    now: datetime,
    forgotten: Collection[int] = (),
) -> Verification:
    """Store what was measured on the rows not excluded at ``data_revision``, with its verdict.

    ``forgotten`` are the rows of the version's batch, of which scores may be stored. The caller has
    called ``shown_sets.hold`` for the model's dataset.
    """
    record_scores.keep(session, model.dataset_id, version, measured=measured, rows=forgotten)
    rows = shown_sets.show(
        session,
        model.dataset_id,
        version.record_list_id,
        version.data_rows,
        data_revision,
        shown_sets.samples_of(measured),
    )
    if apart := shown_batches.apart(session, version):
        rows[FORGOTTEN] = apart
        version.notes = version.notes | {APART: apart}
    changes: dict[str, Any] = {"revision": data_revision, "rows": rows}
    if _pair_was_measured(session, model, version, data_revision):
        changes[PAIR_AGAIN] = True
    made = Verification(
        version_id=version.id,
        verdict=measured["verdict"],
        measured=record_scores.without(measured),
        set_changes=changes,
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


def _pair_was_measured(
    session: Session, model: Model, version: Version, data_revision: int
) -> bool:
    """Return whether the same weights, of it and its base, were measured on other rows before.

    So it may be for the same deletion on another model, or once more after a failed attempt.
    """
    if version.parent_id is None:
        return False
    base = aliased(Version)
    before = session.execute(
        select(Version.record_list_id, Version.data_rows, Verification.set_changes)
        .join(Verification, Verification.version_id == Version.id)
        .join(base, base.id == Version.parent_id)
        .join(Model, Model.id == Version.model_id)
        .where(
            Version.digest == version.digest,
            Version.id != version.id,
            base.digest == session.get_one(Version, version.parent_id).digest,
            Model.dataset_id == model.dataset_id,
        )
    )
    now = (version.record_list_id, version.data_rows, data_revision)
    return any(
        changes is None or (listed, rows, changes["revision"]) != now
        for listed, rows, changes in before
    )


def of(session: Session, version: Version) -> Verification | None:
    """Return the version's verification, or None if it has none yet."""
    return session.scalar(select(Verification).where(Verification.version_id == version.id))
