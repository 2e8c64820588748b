"""The rows of the ledger that an audit report needs, loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from service.ledger.database.tables import (
    Batch,
    BatchRecord,
    Dataset,
    DeletionRequest,
    Erasure,
    Model,
    Record,
    Version,
)
from service.ledger.obligations import erasures
from service.ledger.registry import lineage
from service.ledger.selection import naming


@dataclass(frozen=True)
class Loaded:
    """The rows that a report needs, loaded once."""

    model: Model
    dataset: Dataset
    version: Version
    batch: Batch | None
    requests: Sequence[DeletionRequest]
    chain: Sequence[Version]


def load(session: Session, version: Version) -> Loaded:
    """Return the rows that the report of a version needs."""
    model = session.get_one(Model, version.model_id)
    batch = None if version.batch_id is None else session.get_one(Batch, version.batch_id)
    return Loaded(
        model=model,
        dataset=session.get_one(Dataset, model.dataset_id),
        version=version,
        batch=batch,
        requests=[] if batch is None else _requests(session, model, batch),
        chain=lineage.chain(session, version),
    )


def _requests(session: Session, model: Model, batch: Batch) -> Sequence[DeletionRequest]:
    """Return the requests whose erasures the batch did, or else those that named its rows."""
    wanted = select(DeletionRequest).order_by(DeletionRequest.id)
    theirs = select(Erasure.request_id).where(erasures.of_batch(batch))
    found = session.scalars(wanted.where(DeletionRequest.id.in_(theirs))).all()
    if found:
        return found
    # A new anchor that catches up forgets what earlier batches did on the anchor before it, and a
    # failed batch has handed its erasures back.
    forgotten = exists().where(BatchRecord.batch_id == batch.id, BatchRecord.row == Record.row)
    named = session.scalars(naming.naming(Record.dataset_id == model.dataset_id, forgotten)).all()
    return session.scalars(wanted.where(DeletionRequest.id.in_(named))).all()


def name(version: Version) -> dict[str, Any]:
    """Return how a report names a version: by its number and its digest."""
    return {"version": version.number, "digest": version.digest}
