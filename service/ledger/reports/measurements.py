"""Measurements: an imported version is measured by a worker, then published, promoted or refused.

The service did not see its training. So before it may go live it is scored on rows that it was
trained on and on rows that it never saw; the rules are in ``unlearning.verification.imported``.
Deletions completed in between are owed by the version, as by one in training, and no raw row that
it saw is overwritten before the decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.orm import Session

from service.ledger.database import db, retries
from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import Batch, Import, Model, Verification, Version
from service.ledger.registry import forgotten, versions
from service.ledger.reports import disclosure, shown_sets, verifications

#: The verdict on an import that no rule refuses.
ACCEPTED = "imported"
#: Mark of a version whose stated training rows are neither confirmed nor contradicted.
UNCONFIRMED = "unconfirmed_rows"

_LONGEST_ERROR = 500


def due(session: Session, *, now: datetime) -> list[tuple[int, int]]:
    """Return (version id, model id) of the imports that wait to be measured, oldest first.

    Imports wait while a batch of the model runs: they would owe what it is about to forget.
    """
    rows = session.execute(
        select(Import.version_id, Version.model_id)
        .join(Version, Version.id == Import.version_id)
        .where(
            Import.finished_at.is_(None),
            db.among(Version.status, VersionStatus.CANDIDATE),
            retries.may_begin(Import.not_before, now),
            ~_running(),
        )
        .order_by(Import.version_id)
    )
    return [(version_id, model_id) for version_id, model_id in rows]


def start(session: Session, version: Version) -> Import | None:
    """Begin an attempt; None when the import is decided, or a batch of the model runs."""
    waiting = session.scalars(
        select(Import).where(Import.version_id == version.id).with_for_update()
    ).one()
    busy = session.scalar(select(Version.id).where(Version.id == version.id, _running()))
    if waiting.finished_at is not None or busy is not None:
        return None
    waiting.attempts += 1
    waiting.progress = 0.0
    waiting.not_before = None
    session.flush()
    return waiting


def progress(session: Session, version_id: int, fraction: float) -> None:
    """Store the progress of the measurement; not an audit event."""
    session.execute(
        update(Import)
        .where(Import.version_id == version_id, Import.finished_at.is_(None))
        .values(progress=fraction)
        .execution_options(synchronize_session=False)
    )


def decide(
    session: Session,
    model: Model,
    version: Version,
    *,
    measured: dict[str, Any],
    data_revision: int,
    actor: str,
    now: datetime,
) -> None:
    """Store what was measured at ``data_revision`` and refuse, publish or promote the version.

    A version that is to go live but owes deletions stays a candidate: the next claim has them
    forgotten first. One that is not to go live and contains forgotten records is retired.
    """
    versions.lock_to_measure(session, model)
    shown_sets.hold(session, model.dataset_id)
    session.refresh(version)
    waiting = _finish(session, version, now=now)
    if waiting is None or version.status != VersionStatus.CANDIDATE:
        return
    verifications.store(
        session,
        model,
        version,
        measured=measured,
        data_revision=data_revision,
        actor=actor,
        now=now,
    )
    if measured["verdict"] != ACCEPTED:
        versions.reject(session, model, version, verdict=measured["verdict"], actor=actor)
        return
    version.mark = measured["mark"]
    owes = bool(forgotten.requests_in(session, model, version))
    if waiting.promote or (waiting.promote is None and model.production_id is None):
        if not owes:
            versions.promote(
                session,
                model,
                version,
                expected_production=model.production_id,
                reason="imported",
                actor=actor,
                now=now,
            )
    elif owes:
        versions.retire(session, model, version, actor=actor, now=now)
    else:
        versions.publish(session, version, now=now)


def put_off(session: Session, version: Version, *, error: str, not_before: datetime) -> None:
    """Record a failed attempt; the next one begins at ``not_before`` or later."""
    waiting = session.get_one(Import, version.id)
    waiting.error = error[:_LONGEST_ERROR]
    waiting.not_before = not_before
    session.flush()


def give_up(
    session: Session, model: Model, version: Version, *, error: str, actor: str, now: datetime
) -> None:
    """Refuse a version that cannot be measured."""
    waiting = _finish(session, version, now=now)
    if waiting is None or version.status != VersionStatus.CANDIDATE:
        return
    waiting.error = error[:_LONGEST_ERROR]
    session.flush()
    versions.reject(session, model, version, verdict="not measured", actor=actor)


def reasons(session: Session, found: Iterable[Version]) -> dict[int, str]:
    """Return, by id, why imported versions are in their state, if the state does not say it."""
    rows = session.execute(
        select(Import, Version.status, Verification)
        .join(Version, Version.id == Import.version_id)
        .outerjoin(Verification, Verification.version_id == Import.version_id)
        .where(Import.version_id.in_([version.id for version in found]))
    ).all()
    reasons = {waiting.version_id: _reason(waiting, status, of) for waiting, status, of in rows}
    return {version_id: reason for version_id, reason in reasons.items() if reason is not None}


def _running() -> ColumnElement[bool]:
    """Return SQL: a batch of ``Version``'s model runs, or is left to the trainings lane."""
    return exists().where(
        Batch.model_id == Version.model_id, db.among(Batch.status, BatchStatus.RUNNING)
    )


def _reason(waiting: Import, status: VersionStatus, found: Verification | None) -> str | None:
    if waiting.finished_at is None and status == VersionStatus.CANDIDATE:
        if waiting.error is not None:
            return f"measuring it failed and is tried again: {waiting.error}"
        if waiting.attempts:
            return f"is being measured ({waiting.progress:.0%})"
        return "waits for a worker to measure it on training, validation and audit rows"
    if status == VersionStatus.CANDIDATE:
        return "goes live once what was forgotten meanwhile is forgotten from it too"
    if status == VersionStatus.REJECTED:
        if found is None:
            return waiting.error
        return "; ".join(disclosure.measured(found.measured, found.set_changes)["reasons"])
    if status == VersionStatus.RETIRED:
        return "contains records forgotten since its training"
    return None


def _finish(session: Session, version: Version, *, now: datetime) -> Import | None:
    """Close the import; None when another worker did."""
    waiting = session.scalars(
        select(Import).where(Import.version_id == version.id).with_for_update()
    ).one()
    if waiting.finished_at is not None:
        return None
    waiting.finished_at = now
    waiting.progress = 1.0
    waiting.error = None
    session.flush()
    return waiting
