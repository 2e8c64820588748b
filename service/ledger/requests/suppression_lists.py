"""Suppressions as entries of a tombstone list: list, compare and restore them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from service.ledger.database.tables import Dataset, DatasetAppend, DeletionRequest, Suppression
from service.ledger.requests import suppressions

_EVER = datetime.min.replace(tzinfo=UTC)


class Entry(BaseModel):
    """A suppression as an entry of a tombstone list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["subject", "folded", "row"]
    digest: str
    request: str | None
    #: Of a row: its dataset's name, and its number there.
    dataset: str | None
    row: int | None
    #: Of a row whose dataset was removed; lists of earlier releases have none.
    subject: str | None = None
    record: str | None = None
    created_at: AwareDatetime
    lifted_at: AwareDatetime | None

    @property
    def name(self) -> tuple[str, str, str | None, str | None, int | None]:
        """Return what identifies the entry."""
        return (self.kind, self.digest, self.request, self.dataset, self.row)


def entries(session: Session) -> list[Entry]:
    """Return every suppression, also lifted ones, oldest first."""
    rows = session.execute(
        select(Suppression, Dataset.name)
        .outerjoin(Dataset, Dataset.id == Suppression.dataset_id)
        .order_by(Suppression.id)
    )
    return [
        Entry(
            kind=one.kind,
            digest=one.digest,
            request=one.request_id,
            dataset=name,
            row=one.row,
            subject=one.subject_digest,
            record=one.record_digest,
            created_at=one.created_at,
            lifted_at=one.lifted_at,
        )
        for one, name in rows
    ]


def apart(session: Session, listed: Iterable[Entry]) -> list[Entry]:
    """Return listed suppressions that the ledger lacks, and those lifted only in the list."""
    ours = {one.name: one for one in entries(session)}
    return [
        one
        for one in _as_here(session, listed)
        if one.name not in ours or (one.lifted_at and ours[one.name].lifted_at is None)
    ]


def restore(session: Session, listed: Iterable[Entry]) -> None:
    """Add, or lift, what ``apart`` found."""
    numbers = {name: number for number, name in session.execute(select(Dataset.id, Dataset.name))}
    ours = {one.name for one in entries(session)}
    for one in _as_here(session, listed):
        columns = {
            "kind": one.kind,
            "digest": one.digest,
            "request_id": one.request,
            "dataset_id": numbers.get(one.dataset or ""),
            "row": one.row,
        }
        if one.name not in ours:
            session.add(
                Suppression(
                    **columns,
                    subject_digest=one.subject,
                    record_digest=one.record,
                    created_at=one.created_at,
                    lifted_at=one.lifted_at,
                )
            )
        elif one.lifted_at is not None:
            same = (
                getattr(Suppression, name).is_not_distinct_from(columns[name]) for name in columns
            )
            suppressions.lift(session, and_(*same), now=one.lifted_at)
    session.flush()


def _as_here(session: Session, listed: Iterable[Entry]) -> list[Entry]:
    """Return the entries without requests, datasets and rows that the ledger does not know."""
    requests = set(session.scalars(select(DeletionRequest.id)))
    names = set(session.scalars(select(Dataset.name)))
    added = _added_since(session)
    return [
        one.model_copy(
            update={
                "request": one.request if one.request in requests else None,
                "dataset": one.dataset if one.dataset in names else None,
                "row": None if one.created_at < added(one.dataset, one.row) else one.row,
            }
        )
        for one in listed
    ]


def _added_since(session: Session) -> Callable[[str | None, int | None], datetime]:
    """Return a function that gives the moment at which a row was appended; else the earliest.

    A row that is older in the list had this number in what the backup lost.
    """
    found = session.execute(
        select(Dataset.name, DatasetAppend)
        .join(DatasetAppend, DatasetAppend.dataset_id == Dataset.id)
        .where(DatasetAppend.first_row.is_not(None))
    )
    appends: dict[str, list[tuple[range, datetime]]] = {}
    for name, one in found:
        if one.first_row is not None and one.rows is not None and one.finished_at is not None:
            rows = range(one.first_row, one.first_row + one.rows)
            appends.setdefault(name, []).append((rows, one.finished_at))

    def added(dataset: str | None, row: int | None) -> datetime:
        return next((at for rows, at in appends.get(dataset or "", ()) if row in rows), _EVER)

    return added
