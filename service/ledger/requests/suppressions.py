"""Suppressions: forgotten subjects and rows stay out of every later ingest, until readmitted.

A subject is suppressed in every dataset from the moment a request about it is recorded, unless the
request is cancelled or denied. A row is suppressed from the moment its raw data are overwritten, by
a keyed digest of its record id and content: ingesting the same file under another name does not
bring it back, even after the dataset was removed. Within its own dataset a record id is never used
again. The subject of a row is known from its record and, once that is removed, from digests beside
the suppression.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import ColumnElement, and_, exists, func, insert, select, text, update
from sqlalchemy.orm import Session

from service.ledger.audit import canonical, chain
from service.ledger.database import identifiers
from service.ledger.database.identifiers import Origin
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import (
    Dataset,
    DatasetAppend,
    DeletionRequest,
    Record,
    Suppression,
)
from service.ledger.obligations import raw_rows
from service.ledger.registry import datasets
from service.ledger.selection import matching, naming
from service.ledger.selection.digests import Digester

#: States of a request about a subject in which the subject is suppressed.
SUPPRESSING = frozenset(RequestStatus) - {
    RequestStatus.NO_MATCH,
    RequestStatus.CANCELLED,
    RequestStatus.DENIED,
}


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


class Kind(StrEnum):
    """What a suppression's digest is computed from."""

    SUBJECT = "subject"  # a subject id, in its normalised form
    FOLDED = "folded"  # the same with its case folded, for sources that ignore case
    ROW = "row"  # record id and content of a row


@dataclass(frozen=True)
class Suppressed:
    """Digests in force, by kind, and the number up to which every suppression was read."""

    digests: Mapping[Kind, frozenset[str]]
    newest: int
    #: Labels that rows had when they were suppressed, by their ids, as ``row_key`` gives them.
    labels: Mapping[str, Collection[int]] = field(default_factory=dict)

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
    _lift(session, Suppression.request_id == request_id, now=now)


def unkept(session: Session, dataset: Dataset, rows: Sequence[int]) -> dict[int, str]:
    """Return record ids, as ``row_key`` gives them, of rows not yet suppressed by content."""
    found: dict[int, str] = {}
    for here in _chunks(rows):
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
        for here in _chunks(rows)
    )
    for one in (kept, *named):
        for dataset_id, name, label in session.execute(one.execution_options(yield_per=10_000)):
            found.setdefault(row_key(known[dataset_id], name), set()).add(label)
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
    for here in _chunks(sorted(digests)):
        of_them = exists().where(
            Record.dataset_id == dataset.id, Record.row >= first, Record.subject_digest.in_(here)
        )
        if session.scalar(select(of_them)):
            return True
    return False


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
            _lift(session, and_(*same), now=one.lifted_at)
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


def readmit_subject(
    session: Session, subject_id: str, *, digester: Digester, actor: str, now: datetime
) -> int:
    """Readmit a subject and its rows to later ingests; return how many suppressions were lifted.

    What was forgotten stays forgotten. A later deletion suppresses the subject again.
    """
    forms = {
        form for fold in (False, True) for form in identifiers.forms(subject_id, fold_case=fold)
    }
    own = {digest for form in forms for digest in digester.subjects(form)}
    of_subject = Suppression.digest.in_(own) & Suppression.kind.in_([Kind.SUBJECT, Kind.FOLDED])
    names = session.scalars(select(Dataset.name)).all()
    anywhere = own | {
        digest
        for name in names
        for form in forms
        for digest in digester.subject_candidates(name, form)
    }
    lifted = _lift(session, of_subject, now=now)
    for here in _chunks(sorted(anywhere)):
        theirs = select(Record.row).where(
            Record.dataset_id == Suppression.dataset_id,
            Record.row == Suppression.row,
            Record.subject_digest.in_(here),
        )
        lifted += _lift(session, theirs.exists(), now=now)
        # Rows whose datasets were removed.
        lifted += _lift(session, Suppression.subject_digest.in_(here), now=now)
    digest = digester.subject(identifiers.normalise(subject_id))
    _say(session, f"suppression:{digest}", {"lifted": lifted}, actor=actor)
    return lifted


def readmit_records(
    session: Session,
    dataset_name: str,
    record_ids: Sequence[str],
    *,
    digester: Digester,
    actor: str,
    now: datetime,
) -> int:
    """Readmit forgotten records of a dataset to later ingests; return how many were lifted."""
    dataset = datasets.get(session, dataset_name)
    rows = {row for row in matching.rows_of(session, dataset, record_ids) if row is not None}
    lifted = 0
    for here in _chunks(sorted(rows)):
        of_rows = (Suppression.dataset_id == dataset.id) & Suppression.row.in_(here)
        lifted += _lift(session, of_rows, now=now)
    known = {
        digest
        for one in record_ids
        for form in matching.record_forms(dataset, one)
        for digest in digester.record_candidates(dataset.name, form)
    }
    for here in _chunks(sorted(known)):  # if the dataset was removed
        of_removed = (Suppression.dataset_id == dataset.id) & Suppression.record_digest.in_(here)
        lifted += _lift(session, of_removed, now=now)
    records = sorted(digester.record(dataset.name, one) for one in set(record_ids))
    data = {"lifted": lifted, "records": len(records), "digest": canonical.digest(records)}
    _say(session, f"dataset:{dataset.name}", data, actor=actor)
    return lifted


def _forms(subject_id: str) -> dict[Kind, str]:
    return {
        Kind.SUBJECT: identifiers.normalise(subject_id),
        Kind.FOLDED: identifiers.normalise(subject_id, fold_case=True),
    }


def _lift(session: Session, which: ColumnElement[bool], *, now: datetime) -> int:
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


def _say(session: Session, subject: str, data: dict[str, Any], *, actor: str) -> None:
    chain.append(
        session, actor=actor, action=chain.Action.SUPPRESSION_LIFTED, subject=subject, data=data
    )


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(values), matching.CHUNK):
        yield values[first : first + matching.CHUNK]
