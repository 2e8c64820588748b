"""Inspections, the dry runs of an ingest: a worker reads the source and reports what it found.

They create no dataset, record or name, so the audit chain has no line about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.ledger.audit import machines
from service.ledger.database import ids
from service.ledger.database.states import InspectionStatus
from service.ledger.database.tables import DatasetInspection
from service.ledger.registry import choices

#: How long an inspection is kept.
KEPT = timedelta(hours=1)

_LONGEST_ERROR = 2_000


def create(session: Session, *, source: Mapping[str, Any], now: datetime) -> DatasetInspection:
    """Queue an inspection of ``source`` (see ``datasets.create``), and remove old ones."""
    choices.check_input(session, source.get("input"))
    session.execute(delete(DatasetInspection).where(DatasetInspection.created_at < now - KEPT))
    made = DatasetInspection(
        id=ids.new("insp"), status=InspectionStatus.WAITING, source=dict(source), created_at=now
    )
    session.add(made)
    session.flush()
    return made


def get(session: Session, inspection_id: str, *, now: datetime) -> DatasetInspection:
    """Return the inspection of this id, up to an hour after it was requested."""
    found = session.get(DatasetInspection, inspection_id)
    if found is None or found.created_at < now - KEPT:
        raise NotFound(
            "there is no inspection of this id, or it was made more than an hour ago; ask again "
            "with POST /v1/datasets and dry_run"
        )
    return found


def waiting(session: Session) -> Sequence[DatasetInspection]:
    """Return inspections that a worker has to make, oldest first."""
    return session.scalars(
        select(DatasetInspection)
        .where(DatasetInspection.status == InspectionStatus.WAITING)
        .order_by(DatasetInspection.id)
    ).all()


def finish(session: Session, inspection_id: str, found: Mapping[str, Any]) -> None:
    """Finish an inspection whose source could be ingested; store what was found."""
    _end(session, inspection_id, InspectionStatus.DONE, found=dict(found))


def refuse(session: Session, inspection_id: str, error: str) -> None:
    """Finish an inspection whose source was refused; ``error`` says what to correct."""
    error = error.replace("\0", "")[:_LONGEST_ERROR]
    _end(session, inspection_id, InspectionStatus.REFUSED, error=error)


def _end(session: Session, inspection_id: str, how: InspectionStatus, **values: Any) -> None:
    session.execute(
        machines.inspections.update(session, how, **values).where(
            DatasetInspection.id == inspection_id
        )
    )
