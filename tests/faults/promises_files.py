"""What must hold of files: raw rows, live checkpoints, and nothing that nobody knows."""

from __future__ import annotations

import time

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from models_store import errors, tensors
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    Dataset,
    DeletionRequest,
    Model,
    Record,
    RequestRecord,
    Version,
)
from service.ledger.destruction import stored_files
from service.ledger.registry import data_keys
from tests.faults.fleet import Fleet
from tests.faults.kinds import Broken, Kind, of
from tests.faults.plan import AGAIN, DATASET, Source

#: Requests whose rows are to stay as they are, unless another request asks for them.
SPARED = (RequestStatus.CANCELLED, RequestStatus.DENIED)


def broken(fleet: Fleet, session: Session) -> list[Broken]:
    """Every promise about rows and files that does not hold."""
    found = [*_come_back(fleet, session), *of(Kind.OTHER, _files(fleet, session))]
    for name, source in fleet.sources.items():
        dataset = _dataset(session, name)
        if dataset.withdrawn_at is None:
            found += _rows(session, dataset)
            found += _array(fleet, session, dataset, source)
    return found


def _rows(session: Session, dataset: Dataset) -> list[Broken]:
    """The ledger calls those rows erased that a completed request asked for, and no others."""
    asked = _rows_of(session, dataset, RequestStatus.COMPLETED)
    spared = _rows_of(session, dataset, *SPARED)
    rows = session.execute(
        select(Record.row, Record.erased_at).where(Record.dataset_id == dataset.id)
    )
    return [
        Broken(
            _of_row(row, asked, spared),
            f"row {row} of {dataset.name}: erased={at}, asked for={row in asked}",
        )
        for row, at in rows
        if (at is not None) != (row in asked)
    ]


def _of_row(row: int, asked: set[int], spared: set[int]) -> Kind:
    if row in asked:
        return Kind.RESURRECTED
    return Kind.CANCELLED if row in spared else Kind.OTHER


def _array(fleet: Fleet, session: Session, dataset: Dataset, source: Source) -> list[Broken]:
    """Raw rows: zero where a completed request asked for it, untouched everywhere else."""
    asked = _rows_of(session, dataset, RequestStatus.COMPLETED)
    spared = _rows_of(session, dataset, *SPARED)
    key = dataset.array_key
    assert key is not None
    array = fleet.store.rows.open(key)
    expected = source.x.copy()
    expected[sorted(asked)] = 0
    different = (np.asarray(array.rows) != expected).reshape(len(expected), -1).any(axis=1)
    found = [
        Broken(
            _of_row(row, asked, spared),
            f"row {row} of the array of {dataset.name} is not what it should be",
        )
        for row in np.flatnonzero(different).tolist()
    ]
    try:
        fleet.store.rows.verify(key)
    except errors.Corrupt as damage:
        found.append(Broken(Kind.OTHER, str(damage)))
    return found


def _come_back(fleet: Fleet, session: Session) -> list[Broken]:
    """Ingesting the same source again leaves out who was forgotten, and nobody else."""
    names = fleet.digits.record_ids
    rows = _rows_of(session, _dataset(session, DATASET), RequestStatus.COMPLETED)
    forgotten = {names[row] for row in rows}
    again = _dataset(session, AGAIN)
    found = set(session.scalars(select(Record.record_id).filter_by(dataset_id=again.id)))
    return [
        *of(Kind.RESURRECTED, (f"{one} came back" for one in sorted(found & forgotten))),
        *of(Kind.OTHER, (f"{one} was kept out" for one in sorted({*names} - forgotten - found))),
    ]


def _dataset(session: Session, name: str) -> Dataset:
    return session.scalars(select(Dataset).filter_by(name=name)).one()


def _rows_of(session: Session, dataset: Dataset, *statuses: RequestStatus) -> set[int]:
    return set(
        session.scalars(
            select(RequestRecord.row)
            .join(DeletionRequest, DeletionRequest.listed_by == RequestRecord.request_id)
            .where(RequestRecord.dataset_id == dataset.id, DeletionRequest.status.in_(statuses))
        )
    )


def _files(fleet: Fleet, session: Session) -> list[str]:
    """Nothing lies about that the ledger does not know, and what is live is whole."""
    live = select(Version.digest).join(Model, Model.production_id == Version.id)
    missing = []
    for digest in session.scalars(live).all():
        try:
            tensors.load(fleet.store.blobs, digest, kind="checkpoints")
        except errors.NotStored:
            missing.append(digest)
    with fleet.reading() as again:  # another version may have gone live since, and this one be gone
        missing = sorted(set(missing).intersection(again.scalars(live)))
    return [
        *(f"live checkpoint {digest} is missing" for digest in missing),
        *(f"orphan {name}" for name in orphans(fleet)),
    ]


def orphans(fleet: Fleet) -> list[str]:
    """Files older than the grace that nothing in the ledger refers to."""
    with fleet.reading() as session:
        keep = stored_files.files_in_use(session)
        keep["shards"] = data_keys.digests(session)
    # Sweeps run every quarter of the grace, and wait for a lane that may be training.
    seconds = 2 * fleet.settings.orphan_grace_seconds
    kinds = (*stored_files.KINDS, "arrays", "shards")
    return [
        f"{kind}/{name}"
        for kind in kinds
        for name in sorted(_older(fleet, kind, seconds) - keep[kind])
    ]


def _older(fleet: Fleet, kind: str, seconds: float) -> set[str]:
    """Names of the things of a kind that were written so long ago."""
    if fleet.bucket is not None:
        return {name.split("/")[1] for name in fleet.bucket.older_than(kind, seconds)}
    home, oldest = fleet.settings.store / kind, time.time() - seconds
    return {
        path.name
        for path in (home.iterdir() if home.is_dir() else [])
        if path.stat().st_mtime < oldest
    }
