"""Removals: destroy the rows of a withdrawn dataset in the files and in the ledger.

The array is destroyed first; then every record loses its identifiers and counts as overwritten,
which completes the requests that waited for it; then the dataset is purged, with a signed receipt.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String, cast, func, literal, select, update
from sqlalchemy.orm import Session

from service.ledger.audit import chain, machines
from service.ledger.database import locks
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset, DatasetReport, Model, Record

#: Records changed in one transaction.
ROWS_AT_ONCE = 10_000


def blank(session: Session, dataset_id: int, *, first: int, marker: str, now: datetime) -> bool:
    """Remove the identifiers of ``ROWS_AT_ONCE`` records; return whether there were any.

    Their raw rows are destroyed. The new record ids begin with ``marker``, which no client can have
    used as an id; repeating it with another marker is harmless.
    """
    changed = session.execute(
        update(Record)
        .where(
            Record.dataset_id == dataset_id,
            Record.row >= first,
            Record.row < first + ROWS_AT_ONCE,
        )
        .values(
            record_id=literal(marker).concat(cast(Record.row, String)),
            subject_digest=None,
            erased_at=func.coalesce(Record.erased_at, now),
        )
        .returning(Record.row)
        .execution_options(synchronize_session=False)
    )
    return bool(changed.all())


def record(
    session: Session, dataset_id: int, *, receipt: dict[str, Any], actor: str, now: datetime
) -> None:
    """Mark the dataset as purged; put the signed receipt into the chain."""
    dataset = locks.dataset(session, dataset_id, locks.Hold.REVISION)
    if dataset.status != DatasetStatus.WITHDRAWN:
        return  # another worker did it first
    machines.datasets.move(dataset, DatasetStatus.PURGED)
    dataset.purged_at = now
    dataset.array_key = dataset.text_key = None
    session.flush()
    session.execute(
        update(DatasetReport).where(DatasetReport.dataset_id == dataset_id).values(class_names=None)
    )
    _unlearned(session, dataset)
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DATASET_PURGED,
        subject=f"dataset:{dataset.name}",
        data={"receipt": receipt},
    )


def _unlearned(session: Session, dataset: Dataset) -> None:
    """Remove what was learned of the rows at their ingest, here and from the dataset's models."""
    if not (dataset.input or {}).get("learned"):
        return
    dataset.input = {**(dataset.input or {}), "options": {}}
    for model in session.scalars(select(Model).where(Model.dataset_id == dataset.id)):
        model.input = {**model.input, "options": {}}
    session.flush()
