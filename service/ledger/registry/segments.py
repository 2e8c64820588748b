"""Segments: the arrays of a dataset, that of its ingest and one for each append, in order.

Rows are numbered through all of them and keep their numbers. A version knows the rows that the
dataset had when its anchor was trained (``Version.data_rows``), so a segment that came later does
not concern it. A dataset that never grew costs no query here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.ledger.database.states import AppendStatus, DatasetStatus
from service.ledger.database.tables import Dataset, DatasetAppend


@dataclass(frozen=True)
class Segment:
    """An array in the store: its key, and the numbers of its rows in the dataset."""

    key: str
    first: int
    rows: int
    #: Key of the array of their texts, which has the same places; None: they are not kept.
    text_key: str | None = None

    @property
    def keys(self) -> list[str]:
        """Return the keys of its arrays."""
        return [self.key, *([] if self.text_key is None else [self.text_key])]


def of(session: Session, dataset: Dataset, *, rows: int | None = None) -> list[Segment]:
    """Return the segments of the dataset's first ``rows`` rows; None: of all of them.

    Empty before the dataset is ready and once it is purged.
    """
    if dataset.array_key is None:
        return []
    wanted = (dataset.rows or 0) if rows is None else rows
    added = _added(session, dataset)
    first = added[0].first if added else dataset.rows or 0
    ingested = Segment(dataset.array_key, 0, first, dataset.text_key)
    return [one for one in (ingested, *added) if one.first < wanted]


def rows_at(session: Session, dataset: Dataset, revision: int) -> int:
    """Return how many rows the dataset had at a revision."""
    if not dataset.appends:
        return dataset.rows or 0
    later = session.scalar(
        select(func.min(DatasetAppend.first_row)).where(
            DatasetAppend.dataset_id == dataset.id,
            DatasetAppend.status == AppendStatus.COMPLETED,
            DatasetAppend.revision > revision,
        )
    )
    return (dataset.rows or 0) if later is None else later


def within(found: Iterable[Segment], rows: Iterable[int]) -> Iterator[tuple[Segment, list[int]]]:
    """Yield the segments that have some of these rows, with the rows' places in their arrays."""
    left = sorted(set(rows))
    for segment in found:
        end = segment.first + segment.rows
        here = [row - segment.first for row in left if segment.first <= row < end]
        if here:
            yield segment, here


def keys_in_use(session: Session) -> set[str]:
    """Return the keys of the arrays of datasets that are not purged."""
    ingested = select(Dataset.array_key, Dataset.text_key).where(Dataset.array_key.is_not(None))
    appended = (
        select(DatasetAppend.array_key, DatasetAppend.text_key)
        .join(Dataset, Dataset.id == DatasetAppend.dataset_id)
        .where(DatasetAppend.array_key.is_not(None), Dataset.array_key.is_not(None))
    )
    rows = [*session.execute(ingested), *session.execute(appended)]
    return {key for row in rows for key in row if key is not None}


def name(dataset_name: str, append_id: str | None) -> str:
    """Return the name under which an array is written: of an ingest, or of an append.

    An append's array is one of its own even if rows and labels are those of another.
    """
    return dataset_name if append_id is None else f"{dataset_name}/{append_id}"


def text_name(name: str) -> str:
    """Return the name under which the texts are written of the array with this name."""
    return f"{name}/text"


def being_written(session: Session) -> set[str]:
    """Return the names of arrays of ingests and appends under way, to which nothing refers yet."""
    ingests = select(Dataset.name).where(Dataset.status == DatasetStatus.INGESTING)
    waiting = (
        select(Dataset.name, DatasetAppend.id)
        .join(DatasetAppend, DatasetAppend.dataset_id == Dataset.id)
        .where(DatasetAppend.status == AppendStatus.WAITING)
    )
    names = {name(one, None) for one in session.scalars(ingests)} | {
        name(one, append_id) for one, append_id in session.execute(waiting)
    }
    return names | {text_name(one) for one in names}


def _added(session: Session, dataset: Dataset) -> Sequence[Segment]:
    if not dataset.appends:
        return []
    found = session.execute(
        select(
            DatasetAppend.array_key,
            DatasetAppend.first_row,
            DatasetAppend.rows,
            DatasetAppend.text_key,
        )
        .where(
            DatasetAppend.dataset_id == dataset.id,
            DatasetAppend.status == AppendStatus.COMPLETED,
        )
        .order_by(DatasetAppend.first_row)
    )
    return [
        Segment(key, first, rows, text_key)
        for key, first, rows, text_key in found
        if key is not None and first is not None and rows is not None
    ]
