"""Suppressions: forgotten subjects and rows stay out of every later ingest, until readmitted.

A subject is suppressed in every dataset from the moment a request about it is recorded, unless the
request is cancelled or denied. A row is suppressed from the moment its raw data are overwritten, by
a keyed digest of its record id and content: ingesting the same file under another name does not
bring it back, even after the dataset was removed. Within its own dataset a record id is never used
again. The subject of a row is known from its record and, once that is removed, from digests beside
the suppression.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, insert, select, text, update
from sqlalchemy.orm import Session

from service.ledger.database import identifiers
from service.ledger.database.identifiers import Origin
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import Dataset, DeletionRequest, Record, Suppression
from service.ledger.obligations import raw_rows
from service.ledger.selection import matching, naming
from service.ledger.selection.digests import Digester

#: States of a request about a subject in which the subject is suppressed.
SUPPRESSING = frozenset(RequestStatus) - {
    RequestStatus.NO_MATCH,
    RequestStatus.CANCELLED,
    RequestStatus.DENIED,
}


class Kind(StrEnum):
    """What a suppression's digest is computed from."""

    SUBJECT = "subject"  # a subject id, in its normalised form
    FOLDED = "folded"  # the same with its case folded, for sources that ignore case
    ROW = "row"  # record id and content of a row


@dataclass(frozen=True)
class Removed:
    """A removed dataset: its name, and how many rows it had."""

    name: str
    rows: int


@dataclass(frozen=True)
class Suppressed:
    """Digests in force, by kind, and the number up to which every suppression was read."""

    digests: Mapping[Kind, frozenset[str]]
    newest: int
    #: Labels that rows had when they were suppressed, by their ids, as ``row_key`` gives them.
    labels: Mapping[str, Collection[int]] = field(default_factory=dict)
    #: The same of rows of removed datasets, by dataset and digests of their record ids.
    labels_of_removed: Mapping[Removed, Mapping[str, Collection[int]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.digests.values())


def of_subject(
    request_id: str, subject_id: str, *, digester: Digester, now: datetime
) -> list[dict[str, Any]]:
    """Return the rows that suppress a request's subject, to be inserted."""
    return [
        {
            "kind": kind,
            "digest": digester.subject(form),
            "request_id": request_id,
            "created_at": now,
        }
        for kind, form in _forms(subject_id).items()
    ]


def share(session: Session) -> None:
    """Wait for datasets that are about to become ready or to grow, before they are searched."""
    _lock(session, "ROW EXCLUSIVE")


def hold(session: Session) -> None:
    """Keep out new suppressions, and requests for a class, until this transaction ends.

    It makes a dataset ready, or adds rows to one.
    """
    _lock(session, "SHARE ROW EXCLUSIVE")


def lift_request(session: Session, request_id: str, *, now: datetime) -> None:
    """Lift a request's suppression; another request may still suppress the same subject."""
    lift(session, Suppression.request_id == request_id, now=now)


def unkept(session: Session, dataset: Dataset, rows: Sequence[int]) -> dict[int, str]:
    """Return record ids, as ``row_key`` gives them, of rows not yet suppressed by content."""
    found: dict[int, str] = {}
    for here in chunks(rows):
        wanted = select(Record.row, Record.record_id).where(
            Record.dataset_id == dataset.id, Record.row.in_(here), ~_kept()
        )
        found |= {row: row_key(dataset, name) for row, name in session.execute(wanted)}
    return found


def about_to_be_erased(session: Session, dataset: Dataset) -> tuple[list[int], dict[int, str]]:
    """Return rows of the dataset that can be erased, ascending, and their ``unkept``."""
    wanted = select(Record.row, Record.record_id, _kept()).where(raw_rows.erasable(dataset))
    found = session.execute(wanted.order_by(Record.row)).all()
    names = {row: row_key(dataset, name) for row, name, is_kept in found if not is_kept}
    return [row for row, _, _ in found], names


def _kept() -> ColumnElement[bool]:
    """Return SQL: ``Record`` is suppressed by its content."""
    return exists().where(
        Suppression.dataset_id == Record.dataset_id,
        Suppression.row == Record.row,
        Suppression.kind == Kind.ROW.value,
    )


def keep_rows(
    session: Session, dataset: Dataset, digests: Mapping[int, str], *, now: datetime
) -> None:
    """Suppress rows whose raw data are about to be overwritten, by their digests."""
    entries = [
        {
            "kind": Kind.ROW,
            "digest": digest,
            "dataset_id": dataset.id,
            "row": row,
            "created_at": now,
        }
        for row, digest in digests.items()
    ]
    if entries:
        session.execute(insert(Suppression), entries)


def keep_owners(
    session: Session, dataset: Dataset, *, first: int, rows: int, digester: Digester
) -> None:
    """Keep the owners' digests of suppressed rows from ``first`` on, as records will lose them."""
    found = session.execute(
        select(Suppression.id, Record.record_id, Record.subject_digest)
        .join(
            Record,
            and_(Record.dataset_id == Suppression.dataset_id, Record.row == Suppression.row),
        )
        .where(
            Suppression.dataset_id == dataset.id,
            Suppression.row >= first,
            Suppression.row < first + rows,
            # On a repeated attempt the record's id is blank already.
            Suppression.record_digest.is_(None),
        )
    )
    kept = [
        {
            "id": number,
            "subject_digest": subject,
            "record_digest": digester.record(dataset.name, name),
        }
        for number, name, subject in found
    ]
    if kept:
        session.execute(update(Suppression), kept)


def about_to_go(session: Session) -> dict[Dataset, list[int]]:
    """Return rows by dataset that open requests name and that are not erased."""
    named = session.execute(
        naming.records(
            Record.dataset_id,
            Record.row,
            Record.erased_at,
            requests=and_(DeletionRequest.is_open),
        )
    )
    rows = sorted({(dataset_id, row) for _, dataset_id, row, erased in named if erased is None})
    found: dict[int, list[int]] = {}
    for dataset_id, row in rows:
        found.setdefault(dataset_id, []).append(row)
    return {session.get_one(Dataset, dataset_id): its for dataset_id, its in found.items()}


def datasets_of_rows(session: Session) -> Sequence[Dataset]:
    """Return the datasets with rows that are suppressed, or that open requests name."""
    kept = exists().where(
        Suppression.dataset_id == Dataset.id,
        Suppression.kind == Kind.ROW,
        Suppression.lifted_at.is_(None),
    )
    found = session.scalars(select(Dataset).where(kept)).all()
    return list({*found, *about_to_go(session)})


def row_key(dataset: Dataset, record_id: str) -> str:
    """Return the record id for a row's digest: its position in the source if generated."""
    digits = record_id.removeprefix(identifiers.GENERATED_PREFIX)
    generated = dataset.record_id_origin == Origin.GENERATED and digits.isdecimal()
    return place_key(int(digits)) if generated else record_id


def place_key(place: int) -> str:
    """Return the record id for a row's digest if the source has none: its position, from 0."""
    return f"\x00{place}"


def in_force(session: Session, *, after: int = 0) -> Suppressed:
    """Return the digests in force of suppressions entered after the one numbered ``after``."""
    newest = session.scalar(select(func.max(Suppression.id))) or 0
    digests: dict[Kind, set[str]] = {kind: set() for kind in Kind}
    rows = session.execute(
        select(Suppression.kind, Suppression.digest)
        .where(Suppression.id > after, Suppression.lifted_at.is_(None))
        .execution_options(yield_per=10_000)
    )
    for kind, digest in rows:
        digests[Kind(kind)].add(digest)
    return Suppressed({kind: frozenset(some) for kind, some in digests.items()}, newest)


def labels(session: Session, going: Mapping[Dataset, Sequence[int]]) -> dict[str, set[int]]:
    """Return the labels of suppressed rows, and of those about to go, by ``row_key``.

    Without rows of datasets that were removed, whose records have lost their ids.
    """
    found: dict[str, set[int]] = {}
    known = {one.id: one for one in session.scalars(select(Dataset))}
    wanted = select(Record.dataset_id, Record.record_id, Record.label)
    kept = wanted.join(
        Suppression,
        and_(Suppression.dataset_id == Record.dataset_id, Suppression.row == Record.row),
    ).where(
        Suppression.kind == Kind.ROW,
        Suppression.lifted_at.is_(None),
        Suppression.record_digest.is_(None),
    )
    named = (
        wanted.where(Record.dataset_id == dataset.id, Record.row.in_(here))
        for dataset, rows in going.items()
        for here in chunks(rows)
    )
    for one in (kept, *named):
        for dataset_id, name, label in session.execute(one.execution_options(yield_per=10_000)):
            found.setdefault(row_key(known[dataset_id], name), set()).add(label)
    return found


def labels_of_removed(session: Session) -> dict[Removed, dict[str, set[int]]]:
    """Return the labels of suppressed rows of removed datasets, by digests of their record ids."""
    found: dict[Removed, dict[str, set[int]]] = {}
    kept = (
        select(Dataset.name, Dataset.rows, Suppression.record_digest, Record.label)
        .join(Dataset, Dataset.id == Suppression.dataset_id)
        .join(
            Record,
            and_(Record.dataset_id == Suppression.dataset_id, Record.row == Suppression.row),
        )
        .where(
            Suppression.kind == Kind.ROW,
            Suppression.lifted_at.is_(None),
            Suppression.record_digest.is_not(None),
        )
    )
    for name, rows, digest, label in session.execute(kept.execution_options(yield_per=10_000)):
        of_dataset = found.setdefault(Removed(name, rows or 0), {})
        of_dataset.setdefault(str(digest), set()).add(label)
    return found


def newest(session: Session) -> int:
    """Return the number of the newest suppression, once every lower one is committed or gone.

    Numbers are not given in the order of commits. It keeps out new suppressions: call it in a
    transaction of its own, and read what is in force in a later one.
    """
    hold(session)
    return session.scalar(select(func.max(Suppression.id))) or 0


def holds(session: Session, dataset: Dataset, digests: Iterable[str], *, first: int = 0) -> bool:
    """Return whether a record from row ``first`` on is under one of these digests of subjects."""
    for here in chunks(sorted(digests)):
        of_them = exists().where(
            Record.dataset_id == dataset.id, Record.row >= first, Record.subject_digest.in_(here)
        )
        if session.scalar(select(of_them)):
            return True
    return False


def _forms(subject_id: str) -> dict[Kind, str]:
    return {
        Kind.SUBJECT: identifiers.normalise(subject_id),
        Kind.FOLDED: identifiers.normalise(subject_id, fold_case=True),
    }


def lift(session: Session, which: ColumnElement[bool], *, now: datetime) -> int:
    """Lift the suppressions of SQL ``which`` that are in force; return their number."""
    changed = session.execute(
        update(Suppression)
        .where(which, Suppression.lifted_at.is_(None))
        .values(lifted_at=now)
        .returning(Suppression.id)
        .execution_options(synchronize_session=False)
    )
    return len(changed.all())


def _lock(session: Session, mode: str) -> None:
    # SQLite has one writer at a time.
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"LOCK TABLE suppressions IN {mode} MODE"))


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the values in pieces that one statement takes."""
    for first in range(0, len(values), matching.CHUNK):
        yield values[first : first + matching.CHUNK]
