"""Records of a dataset that is being ingested: written in slices, or removed again.

A slice is one transaction, so that other writers get their turn. The records of a dataset that is
not ready are what an attempt has written so far; nothing else reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from psycopg.errors import UniqueViolation
from sqlalchemy import Table, delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Unprocessable
from service.ledger.database.states import DatasetStatus, IllegalMove
from service.ledger.database.tables import Dataset, Record

#: Largest number of records written, or removed, in one transaction.
SLICE = 10_000

_LONGEST_RECORD_ID = 255
_COLUMNS = ("dataset_id", "row", "record_id", "subject_digest", "label", "split")


class Row(NamedTuple):
    """What the ledger records of one row; its position in the sequence is the row's number."""

    record_id: str
    subject_digest: str | None
    label: int
    split: int


def require_ingesting(session: Session, dataset: Dataset) -> None:
    """Lock the dataset for the transaction; ``IllegalMove`` unless it is being ingested."""
    # If two workers ingest the same dataset, the second must find it done. Transactions that only
    # refer to the dataset need not wait.
    session.refresh(dataset, with_for_update={"key_share": True})
    if dataset.status != DatasetStatus.INGESTING:
        raise IllegalMove(f"dataset {dataset.name} is {dataset.status}; it is not being ingested")


def write(session: Session, dataset: Dataset, rows: Sequence[Row], *, first: int) -> None:
    """Write the records of ``rows``, of which [0] is row ``first``, after those written before.

    Raise ``Unprocessable`` with the row, from 1, for a record id that is invalid or repeated.
    """
    require_ingesting(session, dataset)
    before = written(session, dataset.id)
    if before != first:
        raise IllegalMove(f"dataset {dataset.name} has {before} records; row {first} is not next")
    values = numbered(dataset.id, rows, first)
    try:
        if session.get_bind().dialect.name == "postgresql":
            _copy(session, values)
        else:
            named = [dict(zip(_COLUMNS, row, strict=True)) for row in values]
            session.execute(insert(cast(Table, Record.__table__)), named)
    except (IntegrityError, UniqueViolation):
        # The database's message quotes the record id.
        raise Unprocessable(
            "A record id is that of another row, far apart from it; make them unique"
        ) from None


def numbered(dataset_id: int, rows: Sequence[Row], first: int) -> Iterator[tuple[Any, ...]]:
    """Yield the values of ``_COLUMNS`` for each row; raise as ``write`` does."""
    # Checked here, because the database's own message would quote the record id. Repeated ids that
    # are far apart are left to the database: keeping all ids here would take much memory.
    seen: set[str] = set()
    for number, row in enumerate(rows, start=first):
        if not 0 < len(row.record_id) <= _LONGEST_RECORD_ID or "\0" in row.record_id:
            raise Unprocessable(
                f"Row {number + 1}: a record id has 1 to {_LONGEST_RECORD_ID} characters and no NUL"
            )
        if row.record_id in seen:
            raise Unprocessable(
                f"Row {number + 1}: its record id is that of an earlier row; make them unique"
            )
        seen.add(row.record_id)
        yield (
            dataset_id, number, row.record_id, row.subject_digest, int(row.label), int(row.split)
        )  # fmt: skip


def written(session: Session, dataset_id: int) -> int:
    """Return how many records a dataset has; they are numbered from 0 without gaps."""
    last = session.scalar(select(func.max(Record.row)).where(Record.dataset_id == dataset_id))
    return 0 if last is None else last + 1


def remove(session: Session, dataset_id: int, rows: int) -> bool:
    """Remove the last ``rows`` records of a dataset that was never ready; True if some are left.

    From the end, so that the numbers of the remaining ones have no gap.
    """
    first = max(written(session, dataset_id) - rows, 0)
    session.execute(
        delete(Record)
        .where(Record.dataset_id == dataset_id, Record.row >= first)
        .execution_options(synchronize_session=False)
    )
    return first > 0


def _copy(session: Session, values: Iterator[tuple[Any, ...]]) -> None:
    """Write rows by COPY, which is ten times faster than INSERT on PostgreSQL."""
    driver: Any = session.connection().connection.driver_connection
    statement = (
        'COPY records (dataset_id, "row", record_id, subject_digest, label, split) FROM STDIN'
    )
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in values:
            copy.write_row(row)
