"""The order in which a transaction locks rows. Transactions that keep to it cannot deadlock.

1. leases
2. datasets, by ascending id, in one of the ways of ``Hold``
3. models, by ascending id (``versions.lock``); then ``shown_sets.hold``, then files of the store
   (``file_locks``)
4. training runs
5. deletion requests, by ascending id, each before its erasures
6. erasures, by ascending id (``execution.lock`` those of a batch)
7. batches, versions, records and what belongs to them
8. the head of the audit chain, at the commit (``audit.chain``)

A transaction may leave steps out but must lock in this order, and must lock a row in the strongest
mode that it will need before it locks anything later: a lock is never strengthened. A foreign key
is checked under a key-share lock on the row that it names, which is compatible with every lock here
but ``Hold.PUBLICATION``. So a transaction that will insert rows with a key to a dataset (requests,
records, shown sets, scores of records) locks this dataset at its place, in the mode ``INTAKE`` at
least.

There is also the lock on the table of suppressions: ``suppressions.share`` comes before everything
and waits only for ``suppressions.hold``, which comes last before the head. Its holder has locked at
most one dataset in the mode ``REVISION``, for which nobody with a share waits.

A lock for which nobody waits (``SKIP LOCKED``) may come at any place: who does not wait cannot be
part of a circle.

What the transaction has locked already (``taken``) is neither locked nor read again, except under
``Hold.INTAKE``, which lets others change the row.

On SQLite nothing is locked here: a writer has locked the whole database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from service.ledger.database import taken
from service.ledger.database.tables import Dataset, DeletionRequest, Model, TrainingRun

Chosen = TypeVar("Chosen", bound="Select[*tuple[Any, ...]]")


class Hold(StrEnum):
    """Modes of a lock on a dataset, and what they keep other transactions from doing."""

    #: For recording requests: no other model of the dataset begins to hold records. Compatible with
    #: itself and with ``REVISION``.
    INTAKE = "FOR KEY SHARE"
    #: For claims, and for reading what is excluded: nobody else excludes records from training.
    #: Compatible with ``INTAKE``.
    REVISION = "FOR NO KEY UPDATE"
    #: For starting a training, importing, a model's first promotion: both. Compatible with nothing.
    PUBLICATION = "FOR UPDATE"


_OPTIONS: Mapping[Hold, dict[str, Any]] = {
    Hold.INTAKE: {"read": True, "key_share": True},
    Hold.REVISION: {"key_share": True},
    Hold.PUBLICATION: {},
}
#: Modes that a lock includes. Under ``INTAKE`` others may change the row, so it is read again.
_STANDS_FOR: Mapping[Hold, Sequence[Hold]] = {
    Hold.INTAKE: (),
    Hold.REVISION: (Hold.INTAKE, Hold.REVISION),
    Hold.PUBLICATION: (Hold.INTAKE, Hold.REVISION, Hold.PUBLICATION),
}


def datasets(session: Session, ids: Iterable[int], hold: Hold) -> Sequence[Dataset]:
    """Lock datasets by ascending id and return them as they are under the lock."""
    return _rows(session, Dataset, Dataset.id, sorted(set(ids)), hold)


def dataset(session: Session, dataset_id: int, hold: Hold) -> Dataset:
    """Lock one dataset and return it as it is under the lock."""
    return datasets(session, [dataset_id], hold)[0]


def with_dataset(wanted: Chosen, hold: Hold) -> Chosen:
    """Return the SELECT, of ``Dataset`` among others, so that it locks the datasets of its rows."""
    return wanted.with_for_update(of=Dataset, **_OPTIONS[hold])


def named_datasets(session: Session, names: Iterable[str], hold: Hold) -> dict[str, Dataset]:
    """Lock the datasets of these names that exist, by ascending id; return them by name."""
    wanted = select(Dataset).where(Dataset.name.in_(sorted(set(names)))).order_by(Dataset.id)
    return {found.name: found for found in session.scalars(_locked(wanted, hold))}


def models(session: Session, ids: Iterable[int]) -> Sequence[Model]:
    """Lock models by ascending id, so that policy and production cannot change; return them."""
    return _rows(session, Model, Model.id, sorted(set(ids)), Hold.REVISION)


def training_run(session: Session, run_id: str) -> TrainingRun:
    """Lock one training run and return it."""
    wanted = select(TrainingRun).where(TrainingRun.id == run_id)
    found: TrainingRun = session.scalars(_locked(wanted, Hold.REVISION)).one()
    return found


def requests(session: Session, ids: Iterable[str]) -> Sequence[DeletionRequest]:
    """Lock deletion requests by ascending id, so that their states cannot change; return them."""
    return _rows(session, DeletionRequest, DeletionRequest.id, sorted(set(ids)), Hold.REVISION)


def locked_dataset(session: Session, dataset_id: int) -> Dataset | None:
    """Return the dataset if this transaction has locked it against exclusions by others."""
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
