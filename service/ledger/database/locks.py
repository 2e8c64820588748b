"""In which order a transaction locks rows. Whoever keeps to it can be part of no deadlock.

1. leases
2. datasets, by ascending id, in one of the ways of ``Hold``
3. models, by ascending id (``versions.lock``); then ``shown_sets.hold``
4. training runs
5. deletion requests, by ascending id, each before its erasures
6. erasures, by ascending id (``execution.lock`` those of a batch)
7. batches, versions, records and what belongs to them
8. the head of the audit chain, at the commit (``audit.chain``)

A transaction may leave steps out but takes what it needs in this order, and takes a row in the
strongest way that it will need before anything that comes later: a lock is never strengthened.
A foreign key is checked under a key-share lock on the row that it names, which every lock here
but ``Hold.PUBLICATION`` lets pass.

Beside these there is the table of suppressions: ``suppressions.share`` comes before everything and
waits for nobody but ``suppressions.hold``, which comes last before the head. Whoever holds it has
locked one dataset in the way of ``REVISION`` at most, which nobody with a share waits for.

What the transaction has locked already (``taken``) is neither locked nor read again, except under
``Hold.INTAKE``, which lets others change the row.

On SQLite nothing is locked here: a writer already has the whole database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from service.ledger.database import taken
from service.ledger.database.tables import Dataset, DeletionRequest, Model, TrainingRun


class Hold(StrEnum):
    """What a transaction is safe from, on a dataset that it has locked in this way."""

    #: No other model of the dataset begins to hold records: who records requests. Beside others
    #: of its kind and beside ``REVISION``.
    INTAKE = "FOR KEY SHARE"
    #: Nobody else excludes records from training: who claims, or reads what is excluded. Beside
    #: ``INTAKE``.
    REVISION = "FOR NO KEY UPDATE"
    #: Both: who starts a training, imports, or makes a model live that was not. Beside nobody.
    PUBLICATION = "FOR UPDATE"


_OPTIONS: Mapping[Hold, dict[str, Any]] = {
    Hold.INTAKE: {"read": True, "key_share": True},
    Hold.REVISION: {"key_share": True},
    Hold.PUBLICATION: {},
}
#: The ways that a lock stands for. Under ``INTAKE`` others may change the row: it is read again.
_STANDS_FOR: Mapping[Hold, Sequence[Hold]] = {
    Hold.INTAKE: (),
    Hold.REVISION: (Hold.INTAKE, Hold.REVISION),
    Hold.PUBLICATION: (Hold.INTAKE, Hold.REVISION, Hold.PUBLICATION),
}


def datasets(session: Session, ids: Iterable[int], hold: Hold) -> Sequence[Dataset]:
    """Lock datasets by ascending id and return them as they are then."""
    return _rows(session, Dataset, Dataset.id, sorted(set(ids)), hold)


def dataset(session: Session, dataset_id: int, hold: Hold) -> Dataset:
    """Lock one dataset and return it as it is then."""
    return datasets(session, [dataset_id], hold)[0]


def named_datasets(session: Session, names: Iterable[str], hold: Hold) -> dict[str, Dataset]:
    """Lock the datasets of these names that exist, by ascending id; by name."""
    wanted = select(Dataset).where(Dataset.name.in_(sorted(set(names)))).order_by(Dataset.id)
    return {found.name: found for found in session.scalars(_locked(wanted, hold))}


def models(session: Session, ids: Iterable[int]) -> Sequence[Model]:
    """Lock models by ascending id, so that policy and production stay, and return them."""
    return _rows(session, Model, Model.id, sorted(set(ids)), Hold.REVISION)


def training_run(session: Session, run_id: str) -> TrainingRun:
    """Lock one training run and return it."""
    wanted = select(TrainingRun).where(TrainingRun.id == run_id)
    found: TrainingRun = session.scalars(_locked(wanted, Hold.REVISION)).one()
    return found


def requests(session: Session, ids: Iterable[str]) -> Sequence[DeletionRequest]:
    """Lock deletion requests by ascending id, so that their states stay, and return them."""
    return _rows(session, DeletionRequest, DeletionRequest.id, sorted(set(ids)), Hold.REVISION)


def locked_dataset(session: Session, dataset_id: int) -> Dataset | None:
    """Return the dataset if this transaction keeps others from excluding its records."""
    found: Dataset | None = taken.find(session, _key(Dataset, dataset_id, Hold.REVISION))
    return found


def _rows(session: Session, kind: Any, key: Any, ids: Sequence[Any], hold: Hold) -> Sequence[Any]:
    known = [taken.find(session, _key(kind, one, hold)) for one in ids]
    if all(row is not None for row in known):
        return known
    rows = session.scalars(_locked(select(kind).where(key.in_(ids)).order_by(key), hold)).all()
    for row in rows:
        for as_good in _STANDS_FOR[hold]:
            taken.keep(session, _key(kind, row.id, as_good), row)
    return rows


def _key(kind: Any, row_id: Any, hold: Hold) -> taken.Key:
    return (kind, row_id, hold)


def _locked(wanted: Select[Any], hold: Hold) -> Select[Any]:
    # Rows that the session read before it had the lock may have changed while it waited.
    return wanted.with_for_update(**_OPTIONS[hold]).execution_options(populate_existing=True)
