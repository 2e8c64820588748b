"""Internal state that no batch needs any more."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, exists, literal_column, or_, select, union
from sqlalchemy.orm import Session, aliased

from service.ledger.batches import pools
from service.ledger.database import db
from service.ledger.database.states import BatchStatus, VersionStatus
from service.ledger.database.tables import Artifact, Batch, Model, Version
from service.ledger.destruction import purges
from service.ledger.registry.policy import Policy


def models(session: Session) -> list[int]:
    """Return ids of models with running sums, statistics or margins that no batch needs any more.

    Scores that no pool uses any more are found with them: each batch leaves both.
    """
    old = (one.with_only_columns(Version.model_id) for one in (_old_sums(), _old_margins()))
    return list(session.scalars(union(*old)))


def of_model(session: Session, model: Model) -> dict[int, list[int]]:
    """Return ids of the model's artifacts that no batch needs any more, by version.

    Running sums and statistics of versions that were retired, rejected or withdrawn: the next batch
    uses those of the live version, or of one to which production was moved back. Scores that are
    older than the pool of every version from which a batch may start. And margins of another anchor
    than the live version's, and those that the policy does not ask for any more.
    """
    sums = session.scalars(_old_sums().where(Version.model_id == model.id).order_by(Artifact.id))
    found: dict[int, list[int]] = {}
    old_margins = session.scalars(_old_margins().where(Version.model_id == model.id))
    for artifact in (*sums, *_old_scores(session, model), *old_margins):
        found.setdefault(artifact.version_id, []).append(artifact.id)
    return found


def _old_sums() -> Select[Any]:
    is_base = exists().where(
        db.among(Batch.status, BatchStatus.RUNNING), Batch.base_version_id == Version.id
    )
    return (
        select(Artifact)
        .join(Version, Version.id == Artifact.version_id)
        .where(
            db.among(Artifact.kind, "states", "statistics"),
            Artifact.destroyed_at.is_(None),
            Version.status.in_(purges.OVER),
            ~is_base,
        )
    )


def _old_margins() -> Select[Any]:
    live = aliased(Version)
    newer = aliased(Artifact)
    of_live_anchor = exists().where(live.id == Model.production_id, live.anchor_id == Version.id)
    replaced = exists().where(
        newer.version_id == Artifact.version_id,
        newer.kind == Artifact.kind,
        newer.destroyed_at.is_(None),
        newer.id > Artifact.id,
    )
    return (
        select(Artifact)
        .join(Version, Version.id == Artifact.version_id)
        .join(Model, Model.id == Version.model_id)
        .where(
            db.among(Artifact.kind, "margins"),
            Artifact.destroyed_at.is_(None),
            or_(
                ~of_live_anchor,
                replaced,
                Model.policy["margins", "splits"].as_integer() == literal_column("0"),
            ),
        )
    )


def _old_scores(session: Session, model: Model) -> list[Artifact]:
    """Return scores of withdrawn versions of the model that no pool uses any more."""
    rows = pools.rows_wanted(Policy.model_validate(model.policy))
    usable = session.scalars(
        select(Version).where(
            Version.model_id == model.id,
            Version.status.in_([VersionStatus.PUBLISHED, VersionStatus.CANDIDATE]),
        )
    )
    needed = {one.id for version in usable for one in pools.scores(session, version, rows=rows)}
    kept = session.scalars(
        select(Artifact)
        .join(Version, Version.id == Artifact.version_id)
        .where(
            Version.model_id == model.id,
            Version.status.in_([*purges.OVER, VersionStatus.PURGED]),
            Artifact.kind == "scores",
            Artifact.destroyed_at.is_(None),
        )
        .order_by(Artifact.id)
    )
    return [one for one in kept if one.id not in needed]
