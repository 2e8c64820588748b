"""Who still holds the rows of a deletion request: live versions, retired weights, raw rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.ledger.database import db
from service.ledger.database.states import ErasureStatus, VersionStatus
from service.ledger.database.tables import DeletionRequest, Erasure, Model, Record, Version
from service.ledger.selection import naming

_OPEN = (ErasureStatus.PENDING, ErasureStatus.CLAIMED, ErasureStatus.NEEDS_REVIEW)


@dataclass(frozen=True)
class OnModel:
    """What of the rows one model still holds."""

    #: Number of the live version; None: nothing is live.
    live: int | None
    #: The live version may still contain rows of the request.
    still: bool
    #: Retired versions whose weights are not destroyed yet.
    retired: int


@dataclass(frozen=True)
class Holders:
    """Raw rows of the request, those of them that are overwritten, and each of its models."""

    rows: int
    overwritten: int
    models: Mapping[str, OnModel]


def of(session: Session, request: DeletionRequest) -> Holders:
    """Return who still holds the request's rows, in three statements."""
    named = naming.records(Record.erased_at, Record.row, requests=[request.id]).subquery()
    rows, overwritten = session.execute(
        select(func.count(), func.count(named.c.erased_at)).select_from(named)
    ).one()
    return Holders(rows, overwritten, _models(session, request))


def _models(session: Session, request: DeletionRequest) -> dict[str, OnModel]:
    found = session.execute(
        select(Model.id, Model.name, Version.number, Erasure.status)
        .join(Erasure, Erasure.model_id == Model.id)
        .outerjoin(Version, Version.id == Model.production_id)
        .where(Erasure.request_id == request.id)
        .order_by(Model.id)
    ).all()
    retired = dict(
        session.execute(
            select(Version.model_id, func.count())
            .where(
                Version.model_id.in_([one.id for one in found]),
                db.among(Version.status, VersionStatus.RETIRED),
            )
            .group_by(Version.model_id)
        ).all()
    )
    return {
        name: OnModel(
            live=number,
            still=number is not None and status in _OPEN,
            retired=retired.get(model_id, 0),
        )
        for model_id, name, number, status in found
    }
