"""Record lists: which records of a dataset a training elsewhere used.

The dataset's splits are drawn here, and a training elsewhere may have used others. The record list
of an imported version replaces the train split wherever that version's rows are meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice

from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import NotFound, Unprocessable
from service.ledger.audit import chain
from service.ledger.database import ids
from service.ledger.database.tables import Dataset, Record, RecordList, RecordListRow
from service.ledger.selection import matching

#: Splits by their number in the array store.
SPLITS = ("train", "validation", "audit")
#: Number of unknown ids whose positions an error names.
SHOWN = 5
_PAGE = 10_000


class UnknownRecords(Unprocessable):
    """Some ids of a list name no record of the dataset."""

    code = "unknown-records"


def create(
    session: Session, dataset: Dataset, record_ids: Iterable[str], *, actor: str, now: datetime
) -> RecordList:
    """Store a list of the dataset's records; the same records twice are one list.

    Ids are looked up as for deletion requests, and a repeated id counts once. Raise
    ``UnknownRecords`` with the positions, not the ids, of those that name nothing.
    """
    rows = _rows(session, dataset, record_ids)
    if not rows:
        raise Unprocessable("the list is empty; name at least one record of the dataset")
    _require_unseen(session, dataset, rows)
    digest = hashlib.sha256(b"".join(row.to_bytes(8, "little") for row in rows)).hexdigest()
    known = _find(session, dataset, digest)
    if known is not None:
        return known
    made = RecordList(
        id=ids.new("rl"),
        dataset_id=dataset.id,
        digest=digest,
        records=len(rows),
        created_by=actor,
        created_at=now,
    )
    try:
        with session.begin_nested():
            session.add(made)
            session.flush()
    except IntegrityError:  # another transaction stored the same list at the same moment
        twin = _find(session, dataset, digest)
        if twin is None:
            raise
        return twin
    for start in range(0, len(rows), _PAGE):
        here = [{"list_id": made.id, "row": row} for row in rows[start : start + _PAGE]]
        session.execute(insert(RecordListRow), here)
    chain.append(
        session,
        actor=actor,
        action=chain.Action.RECORD_LIST_CREATED,
        subject=f"dataset:{dataset.name}",
        data={"list": made.id, "records": made.records, "digest": digest},
    )
    return made


def get(session: Session, dataset: Dataset, list_id: str) -> RecordList:
    """Return a list of this dataset."""
    found = session.scalar(
        select(RecordList).where(RecordList.id == list_id, RecordList.dataset_id == dataset.id)
    )
    if found is None:
        raise NotFound(
            f"dataset {dataset.name} has no record list of this id; send the record ids to "
            f"POST /v1/datasets/{dataset.name}/record-lists"
        )
    return found


def splits(session: Session, found: RecordList) -> dict[str, int]:
    """Return how many of the list's records lie in each split of the dataset."""
    rows = session.execute(
        select(Record.split, func.count())
        .join(RecordListRow, RecordListRow.row == Record.row)
        .where(Record.dataset_id == found.dataset_id, RecordListRow.list_id == found.id)
        .group_by(Record.split)
    )
    counted: dict[int, int] = dict(rows.all())
    return {name: counted.get(number, 0) for number, name in enumerate(SPLITS)}


def ids_of(session: Session, dataset: Dataset, *, split: str) -> Iterator[str]:
    """Yield the ids of a split's records that training may still read, by row."""
    after = -1
    while True:
        page: Sequence[tuple[int, str]] = [
            (row, record_id)
            for row, record_id in session.execute(
                select(Record.row, Record.record_id)
                .where(
                    Record.dataset_id == dataset.id,
                    Record.row > after,
                    Record.split == SPLITS.index(split),
                    Record.excluded_revision.is_(None),
                )
                .order_by(Record.row)
                .limit(_PAGE)
            )
        ]
        if not page:
            return
        yield from (record_id for _, record_id in page)
        after = page[-1][0]


def _rows(session: Session, dataset: Dataset, record_ids: Iterable[str]) -> list[int]:
    rows: set[int] = set()
    unknown = 0
    shown: list[int] = []
    position = 0
    given = iter(record_ids)
    while chunk := list(islice(given, _PAGE // 3)):  # an id may have three forms
        for row in matching.rows_of(session, dataset, chunk):
            position += 1
            if row is not None:
                rows.add(row)
                continue
            unknown += 1
            if len(shown) < SHOWN:
                shown.append(position)
    if unknown:
        raise UnknownRecords(
            f"{unknown} of {position} ids name no record of dataset {dataset.name}; the first are "
            f"at position {', '.join(map(str, shown))} (from 1); "
            f"GET /v1/datasets/{dataset.name}/record-ids lists those that there are",
            unknown=unknown,
            positions=shown,
        )
    return sorted(rows)


def _require_unseen(session: Session, dataset: Dataset, rows: Sequence[int]) -> None:
    """Refuse a list that leaves no record of the validation or of the audit split unseen."""
    listed = set(rows)
    for number, name in enumerate(SPLITS[1:], start=1):
        whole = session.scalars(
            select(Record.row).where(Record.dataset_id == dataset.id, Record.split == number)
        ).all()
        if whole and listed.issuperset(whole):
            raise Unprocessable(
                f"the list names every record of the {name} split: nothing is left on which the "
                "version could be measured; import weights that were trained without some of them"
            )


def _find(session: Session, dataset: Dataset, digest: str) -> RecordList | None:
    return session.scalar(
        select(RecordList).where(RecordList.dataset_id == dataset.id, RecordList.digest == digest)
    )
