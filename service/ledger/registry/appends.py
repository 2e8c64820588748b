"""Appends: rows of a further source that join a dataset that is ready.

The records of an append are written in slices beside those of the dataset, where nothing else reads
them, and join them in one transaction, with which the dataset's revision grows. Until then the
dataset is as it was. Appends of one dataset are made one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Table, delete, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, Unprocessable
from service.ledger.audit import chain, machines
from service.ledger.database import ids, locks
from service.ledger.database.identifiers import Origin
from service.ledger.database.states import AppendStatus, DatasetStatus, IllegalMove, RequestStatus
from service.ledger.database.tables import (
    AppendedRecord,
    Dataset,
    DatasetAppend,
    DeletionRequest,
    Record,
    Suppression,
)
from service.ledger.registry import datasets, records, standing

#: What to do with rows whose record ids the dataset has.
EXISTING = ("refuse", "skip")

#: States of a request for a class after which no rows of the class are appended.
_FORGETTING = frozenset(RequestStatus) - {
    RequestStatus.NO_MATCH,
    RequestStatus.CANCELLED,
    RequestStatus.DENIED,
}
_LONGEST_ERROR = 2_000
#: A statement takes a limited number of values on both databases.
_IDS_AT_ONCE = 5_000
_MOVED = ("record_id", "subject_digest", "label", "split")


class NoRecordIds(Conflict):
    """The dataset's record ids were generated."""

    code = "no-record-ids"


@dataclass(frozen=True)
class Appended:
    """What an append found: its array's key (None: no row was left), rows per split, notes."""

    array_key: str | None
    splits: Mapping[str, int]
    notes: Mapping[str, Any]
    #: Key of the array of texts; None: they are not kept.
    text_key: str | None = None

    @property
    def rows(self) -> int:
        """Return how many rows are added."""
        return sum(self.splits.values())


def create(
    session: Session,
    dataset: Dataset,
    *,
    source: Mapping[str, Any],
    existing: str = "refuse",
    actor: str,
    now: datetime,
) -> DatasetAppend:
    """Queue an append to a dataset that is ready.

    ``source`` has path, format, seed and fractions; whatever else the dataset's own ingest was told
    holds for it too. ``existing`` is one of ``EXISTING``.
    """
    # A withdrawal comes before, or finds the append and cancels it.
    dataset = locks.dataset(session, dataset.id, locks.Hold.INTAKE)
    standing.require_dataset(dataset)
    require_growing(dataset)
    made = DatasetAppend(
        id=ids.new("ap"),
        dataset_id=dataset.id,
        status=AppendStatus.WAITING,
        source=dict(source),
        existing=existing,
        progress=0.0,
        created_by=actor,
        created_at=now,
    )
    session.add(made)
    session.flush()
    _say(session, dataset, chain.Action.DATASET_APPEND_QUEUED, actor, append=made.id)
    return made


def require_growing(dataset: Dataset) -> None:
    """Raise ``NoRecordIds`` if rows that are appended could not be told from those there are."""
    if dataset.record_id_origin == Origin.GENERATED:
        raise NoRecordIds(
            f"the record ids of dataset {dataset.name} were generated, so rows that it has could "
            "not be recognised in another source, nor those that were forgotten; ingest the data "
            "under a new name with a column of record ids, which can then grow"
        )


def get(session: Session, dataset: Dataset, append_id: str) -> DatasetAppend:
    """Return the append of this dataset; raise ``NotFound`` if there is none."""
    found = session.get(DatasetAppend, append_id)
    if found is None or found.dataset_id != dataset.id:
        raise NotFound(
            f"dataset {dataset.name} has no append of this id; list them with "
            f"GET /v1/datasets/{dataset.name}/appends"
        )
    return found


def page(
    session: Session, dataset: Dataset, *, before: str | None, limit: int
) -> Sequence[DatasetAppend]:
    """Return appends of the dataset, newest first, those older than the append ``before``."""
    wanted = select(DatasetAppend).where(DatasetAppend.dataset_id == dataset.id)
    if before is not None:
        wanted = wanted.where(DatasetAppend.id < before)
    return session.scalars(wanted.order_by(DatasetAppend.id.desc()).limit(limit)).all()


def waiting(session: Session) -> Sequence[DatasetAppend]:
    """Return the appends that a worker has to make, oldest first."""
    return session.scalars(
        select(DatasetAppend)
        .where(DatasetAppend.status == AppendStatus.WAITING)
        .order_by(DatasetAppend.id)
    ).all()


def progress(session: Session, append_id: str, fraction: float) -> None:
    """Store the progress of an append, 0 to 1; not an audit event."""
    session.execute(
        update(DatasetAppend)
        .where(DatasetAppend.id == append_id, DatasetAppend.status == AppendStatus.WAITING)
        .values(progress=min(max(fraction, 0.0), 1.0))
        .execution_options(synchronize_session=False)
    )


def known(session: Session, dataset_id: int, record_ids: Collection[str]) -> set[str]:
    """Return those of the record ids that the dataset has, of erased rows too."""
    wanted, found = sorted(set(record_ids)), set[str]()
    for first in range(0, len(wanted), _IDS_AT_ONCE):
        here = wanted[first : first + _IDS_AT_ONCE]
        found |= set(
            session.scalars(
                select(Record.record_id).where(
                    Record.dataset_id == dataset_id, Record.record_id.in_(here)
                )
            )
        )
    return found


def forgotten_classes(session: Session, dataset_id: int) -> set[int]:
    """Return the labels of classes of the dataset that were asked to be forgotten.

    A request for a class names every record with its label, so none may be added afterwards.
    """
    found = session.scalars(
        select(DeletionRequest.label).where(
            DeletionRequest.dataset_id == dataset_id,
            DeletionRequest.kind == "class",
            DeletionRequest.status.in_(_FORGETTING),
        )
    )
    return {label for label in found if label is not None}


def stage(session: Session, append_id: str, rows: Sequence[records.Row], *, first: int) -> None:
    """Write the records of ``rows``, of which [0] is row ``first`` of the append, aside.

    Raise ``Unprocessable`` with the row, from 1, for a record id that is invalid or repeated.
    """
    _require_waiting(session, append_id)
    before = _staged(session, append_id)
    if before != first:
        raise IllegalMove(f"append {append_id} has {before} records; row {first} is not next")
    values = [
        dict(zip(("append_id", "row", *_MOVED), (append_id, *rest), strict=True))
        for _, *rest in records.numbered(0, rows, first)
    ]
    session.execute(insert(cast(Table, AppendedRecord.__table__)), values)


def unstage(session: Session, append_id: str, rows: int) -> bool:
    """Remove the last ``rows`` records that were written aside; True if some are left."""
    first = max(_staged(session, append_id) - rows, 0)
    session.execute(
        delete(AppendedRecord)
        .where(AppendedRecord.append_id == append_id, AppendedRecord.row >= first)
        .execution_options(synchronize_session=False)
    )
    return first > 0


def unfinished(session: Session, dataset: Dataset) -> Sequence[str]:
    """Return ids of the dataset's appends of which records are written aside."""
    return session.scalars(
        select(DatasetAppend.id).where(
            DatasetAppend.dataset_id == dataset.id,
            select(AppendedRecord.row)
            .where(AppendedRecord.append_id == DatasetAppend.id)
            .limit(1)
            .scalar_subquery()
            .is_not(None),
        )
    ).all()


def complete(
    session: Session, append_id: str, found: Appended, *, actor: str, now: datetime
) -> tuple[Dataset, int]:
    """Let the records join the dataset: its array is in the store and every record is aside.

    Return the dataset and the number of the first row. ``IllegalMove`` unless there are as many
    records as rows; ``Unprocessable`` if the dataset has got one of the record ids meanwhile.
    """
    append = session.get_one(DatasetAppend, append_id)
    # Trainings start before or after it, and nothing is excluded at the same revision. Requests
    # that are being recorded need not wait: see ``suppressions.hold``.
    dataset = locks.dataset(session, append.dataset_id, locks.Hold.REVISION)
    _require_waiting(session, append_id)
    if dataset.status != DatasetStatus.READY:
        raise IllegalMove(f"dataset {dataset.name} is {dataset.status}; nothing is appended to it")
    rows, staged = found.rows, _staged(session, append_id)
    if staged != rows:
        raise IllegalMove(f"append {append_id} has {staged} records for {rows} rows")
    first = dataset.rows or 0
    if rows:
        _free_numbers(session, dataset, first)
        _join(session, append_id, dataset, first)
        dataset.rows = first + rows
        dataset.appends += 1
        dataset.revision += 1
        before = dataset.split_rows or {}
        dataset.split_rows = {
            name: before.get(name, 0) + found.splits.get(name, 0) for name in datasets.SPLITS
        }
        append.array_key, append.text_key = found.array_key, found.text_key
        append.first_row = first
        append.revision = dataset.revision
    machines.appends.move(append, AppendStatus.COMPLETED)
    append.rows, append.split_rows = rows, dict(found.splits)
    append.notes, append.progress, append.finished_at = dict(found.notes), 1.0, now
    session.flush()
    _say(
        session,
        dataset,
        chain.Action.DATASET_APPENDED,
        actor,
        append=append.id,
        rows=rows,
        array=found.array_key,
        suppressed=found.notes.get("suppressed", 0),
    )
    return dataset, first


def fail(session: Session, append_id: str, *, error: str, actor: str, now: datetime) -> None:
    """Refuse the source; ``error`` names row and column and says what to correct.

    Records written from it must have been removed before.
    """
    append = session.get_one(DatasetAppend, append_id)
    dataset = session.get_one(Dataset, append.dataset_id)
    _require_waiting(session, append_id)
    if _staged(session, append_id):
        raise IllegalMove(f"records of append {append_id} are left; remove them first")
    machines.appends.move(append, AppendStatus.FAILED)
    append.error = error.replace("\0", "")[:_LONGEST_ERROR]
    append.finished_at = now
    session.flush()
    _say(session, dataset, chain.Action.DATASET_APPEND_FAILED, actor, append=append.id)


def cancel(session: Session, dataset: Dataset, *, now: datetime) -> None:
    """Cancel the appends that wait, as the dataset is withdrawn; the caller has locked it."""
    session.execute(
        machines.appends.update(
            session,
            AppendStatus.CANCELLED,
            error=f"dataset {dataset.name} was withdrawn",
            finished_at=now,
        )
        .where(DatasetAppend.dataset_id == dataset.id)
        .execution_options(synchronize_session="fetch")
    )


def one_waits(session: Session, dataset_id: int | None = None) -> str | None:
    """Return the name of the dataset, or of any, to which rows are being appended; or None."""
    wanted = (
        select(Dataset.name)
        .join(DatasetAppend, DatasetAppend.dataset_id == Dataset.id)
        .where(DatasetAppend.status == AppendStatus.WAITING)
    )
    if dataset_id is not None:
        wanted = wanted.where(Dataset.id == dataset_id)
    return session.scalar(wanted.limit(1))


def describe(append: DatasetAppend, dataset: Dataset) -> dict[str, Any]:
    """Return the append in its public form."""
    shown = (
        *("id", "status", "progress", "error", "source", "existing", "rows", "revision"),
        *("created_at", "finished_at"),
    )
    return {
        "dataset": dataset.name,
        "splits": append.split_rows,
        "notes": append.notes,
        **{name: getattr(append, name) for name in shown},
    }


def _require_waiting(session: Session, append_id: str) -> None:
    """Lock the append for the transaction; ``IllegalMove`` unless it is under way."""
    append = session.get_one(DatasetAppend, append_id)
    session.refresh(append, with_for_update={"key_share": True})
    if append.status != AppendStatus.WAITING:
        raise IllegalMove(f"append {append_id} is {append.status}; it is not under way")


def _staged(session: Session, append_id: str) -> int:
    last = session.scalar(
        select(func.max(AppendedRecord.row)).where(AppendedRecord.append_id == append_id)
    )
    return 0 if last is None else last + 1


def _free_numbers(session: Session, dataset: Dataset, first: int) -> None:
    """Let suppressions of rows that a restored backup has lost name no row of the dataset.

    Their digests stay in force; the numbers of the rows are given anew.
    """
    session.execute(
        update(Suppression)
        .where(Suppression.dataset_id == dataset.id, Suppression.row >= first)
        .values(row=None)
        .execution_options(synchronize_session=False)
    )


def _join(session: Session, append_id: str, dataset: Dataset, first: int) -> None:
    aside = [getattr(AppendedRecord, name) for name in _MOVED]
    moved = select(literal(dataset.id), AppendedRecord.row + first, *aside).where(
        AppendedRecord.append_id == append_id
    )
    names = ["dataset_id", "row", *_MOVED]
    try:
        with session.begin_nested():
            session.execute(
                insert(Record).from_select(names, moved.order_by(AppendedRecord.row)),
                execution_options={"synchronize_session": False},
            )
    except IntegrityError:
        # The database's message quotes the record id.
        raise Unprocessable(
            f"A record id occurs twice in the source, or dataset {dataset.name} has it already; "
            "make them unique, or append with existing=skip"
        ) from None
    session.execute(
        delete(AppendedRecord)
        .where(AppendedRecord.append_id == append_id)
        .execution_options(synchronize_session=False)
    )


def _say(session: Session, dataset: Dataset, action: chain.Action, actor: str, **data: Any) -> None:
    chain.append(session, actor=actor, action=action, subject=f"dataset:{dataset.name}", data=data)
