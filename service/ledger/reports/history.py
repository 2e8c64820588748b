"""The history of a model: its versions, its batches and the moves of its alias, newest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables import AliasMove, Batch, Erasure, Model, Verification, Version
from service.ledger.obligations import erasures


def versions(
    session: Session,
    model: Model,
    *,
    status: VersionStatus | None = None,
    before: int | None,
    limit: int,
) -> Sequence[Version]:
    """Return versions of the model with numbers below ``before``."""
    wanted = select(Version).where(Version.model_id == model.id)
    if status is not None:
        wanted = wanted.where(Version.status == status)
    if before is not None:
        wanted = wanted.where(Version.number < before)
    return session.scalars(wanted.order_by(Version.number.desc()).limit(limit)).all()


def batches(session: Session, model: Model, *, before: str | None, limit: int) -> Sequence[Batch]:
    """Return batches of the model that began before the batch ``before``."""
    wanted = select(Batch).where(Batch.model_id == model.id)
    if before is not None:
        wanted = wanted.where(Batch.id < before)
    return session.scalars(wanted.order_by(Batch.id.desc()).limit(limit)).all()


def batch(session: Session, model: Model, batch_id: str) -> Batch:
    """Return one batch of the model."""
    found = session.scalar(select(Batch).where(Batch.model_id == model.id, Batch.id == batch_id))
    if found is None:
        raise NotFound(f"model {model.name} has no batch of this id; list its batches")
    return found


def moves(session: Session, model: Model, *, before: int | None, limit: int) -> Sequence[AliasMove]:
    """Return moves of the alias ``production`` before the move ``before``."""
    wanted = select(AliasMove).where(AliasMove.model_id == model.id)
    if before is not None:
        wanted = wanted.where(AliasMove.id < before)
    return session.scalars(wanted.order_by(AliasMove.id.desc()).limit(limit)).all()


def numbers(session: Session, version_ids: Iterable[int | None]) -> dict[int, int]:
    """Return numbers of versions by their ids."""
    wanted = {one for one in version_ids if one is not None}
    rows = session.execute(select(Version.id, Version.number).where(Version.id.in_(wanted)))
    return dict(rows.all())


def verdicts(session: Session, version_ids: Iterable[int]) -> dict[int, str]:
    """Return verdicts of the versions that were verified, by the versions' ids."""
    rows = session.execute(
        select(Verification.version_id, Verification.verdict).where(
            Verification.version_id.in_(list(version_ids))
        )
    )
    return dict(rows.all())


def verification(session: Session, model: Model, version: Version) -> Verification:
    """Return a version's verification; raise ``NotFound`` if there is none."""
    found = session.scalar(select(Verification).where(Verification.version_id == version.id))
    if found is None:
        raise NotFound(
            f"version {version.number} of {model.name} has no verification yet; one that was "
            "imported is measured by a worker, unless that was before this release"
        )
    return found


def records(session: Session, batch_ids: Iterable[str]) -> dict[str, int]:
    """Return how many records each batch forgets, by the batches' ids."""
    rows = session.execute(select(Batch.id, Batch.records).where(Batch.id.in_(list(batch_ids))))
    return dict(rows.all())


def requests(session: Session, batch_id: str) -> list[str]:
    """Return ids of the deletion requests with an erasure in the batch."""
    batch = session.get_one(Batch, batch_id)
    wanted = select(Erasure.request_id).where(erasures.of_batch(batch))
    return list(session.scalars(wanted.order_by(Erasure.request_id)))
