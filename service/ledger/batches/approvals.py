"""Approvals: versions that wait for an operator, why they wait, and their approval.

A version waits while its batch is held (``holds``), or when it is an automatic retrain that lost
accuracy and was set aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.audit import canonical, chain
from service.ledger.batches import holds
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import Batch, Model, Version
from service.ledger.registry import versions


class NotHeld(Conflict):
    """The version is not held, so it cannot be approved."""

    code = "not-held"


def approve(
    session: Session, model: Model, version: Version, *, actor: str, now: datetime
) -> Version:
    """Promote a held version now; approving the live version again changes nothing."""
    batch = holds.locked(session, model)
    if batch is None or batch.version_id != version.id:
        if model.production_id == version.id:
            return version
        if waits_aside(session, model, version):
            _say_approved(session, model, version, actor=actor)
            versions.promote(
                session,
                model,
                version,
                expected_production=model.production_id,
                reason="approved",
                actor=actor,
                now=now,
            )
            return version
        raise NotHeld(
            f"version {version.number} of {model.name} is {version.status} and is not held for "
            "approval; its state says what it waits for"
        )
    if model.production_id != batch.base_version_id:
        raise versions.ProductionMoved(
            f"production of {model.name} has moved since version {version.number} was made; its "
            "records are forgotten from the version that is live now"
        )
    _say_approved(session, model, version, actor=actor)
    holds.go_live(session, model, batch, version, reason="approved", actor=actor, now=now)
    return version


def set_aside(
    session: Session, model: Model, version: Version, *, owes: bool, actor: str, now: datetime
) -> None:
    """Leave an automatic retrain that lost accuracy for an operator to approve.

    The live version holds no forgotten records, so there is no due date. A retrain that owes
    deletions itself is rejected, since catching up would take another batch.
    """
    version.mark = holds.ACCURACY
    if owes:
        versions.reject(session, model, version, verdict=holds.ACCURACY, actor=actor)
        return
    versions.publish(session, version, now=now)
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_SET_ASIDE,
        subject=versions.subject(model, version),
        data={"because": holds.ACCURACY},
    )


def waits_aside(session: Session, model: Model, version: Version) -> bool:
    """Return whether the version is a retrain that was set aside, and nothing newer is live.

    A version that steps from a later training replaces it, so no decision is needed any more.
    """
    return version.status == VersionStatus.PUBLISHED and was_set_aside(session, model, version)


def was_set_aside(session: Session, model: Model, version: Version) -> bool:
    """Return whether the version is a retrain that was set aside, later than what is live.

    Also true when a later deletion has retired it.
    """
    if version.mark != holds.ACCURACY or version.training_run_id is None:
        return False
    if model.production_id is None:
        return True
    live = session.get_one(Version, model.production_id)
    return session.get_one(Version, live.anchor_id).number < version.number


def reasons(session: Session, model: Model, found: Sequence[Version]) -> dict[int, str]:
    """Return, by id, why versions of a model that are held or set aside wait."""
    aside = {
        version.id: "lost more accuracy than the policy allows and was not made live; approve it "
        "(POST …:approve), or improve the model's recipe"
        for version in found
        if waits_aside(session, model, version)
    }
    rows = session.execute(
        select(Batch.version_id, Batch.held_until).where(
            db.among(Batch.status, BatchStatus.HELD),
            Batch.version_id.in_([version.id for version in found]),
        )
    )
    marks = {version.id: version.mark or holds.ACCURACY for version in found}
    return aside | {
        version_id: "waits for approval (POST …:approve), since "
        f"{holds.BECAUSE[marks[version_id]]}; goes live by itself at {canonical.moment(ends)}"
        for version_id, ends in rows
        if version_id is not None and ends is not None
    }


def _say_approved(session: Session, model: Model, version: Version, *, actor: str) -> None:
    chain.append(
        session,
        actor=actor,
        action=chain.Action.VERSION_APPROVED,
        subject=versions.subject(model, version),
        data={"batch": version.batch_id},
    )
