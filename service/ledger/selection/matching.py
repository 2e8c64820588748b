"""Match deletion requests to the records of a dataset, many requests with few statements."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Literal

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.database import identifiers
from service.ledger.database.identifiers import Origin
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset, Record
from service.ledger.selection.digests import Digester
from service.ledger.selection.regulations import Period

#: Values per statement: below the 32,766 variables of SQLite and the 65,535 of PostgreSQL.
CHUNK = 10_000

Kind = Literal["records", "subject", "class"]

_What = tuple[Kind, tuple[str, ...], str | None, int | None]

_GENERATED = re.compile(r"row-([0-9]{6,10})")


class NoSuchIds(Conflict):
    """The dataset has no ids of the requested kind, so it cannot match them."""


class NoSubjectIds(NoSuchIds):
    """The dataset does not know the subjects of its records."""

    code = "no-subject-ids"


class NoRecordIds(NoSuchIds):
    """The dataset's record ids were generated, so no client has them."""

    code = "no-record-ids"


@dataclass(frozen=True)
class Ask:
    """What one client asks to forget. What identifies a person is left out of its ``repr``."""

    #: None: every dataset that has subject ids; only for a subject.
    dataset: str | None
    kind: Kind
    record_ids: tuple[str, ...] = field(default=(), repr=False)
    subject_id: str | None = field(default=None, repr=False)
    label: int | None = field(default=None, repr=False)
    #: In place of the label, until it is looked up (``parts.with_labels``).
    class_name: str | None = field(default=None, repr=False)
    reason: str | None = field(default=None, repr=False)
    client_reference: str | None = field(default=None, repr=False)
    #: By when it is due.
    period: Period = field(default_factory=Period)
    #: When the person asked, from which the period counts; None: when it is recorded.
    asked_at: datetime | None = None

    @property
    def what(self) -> _What:
        """Return what equal asks have in common, in one dataset or in all."""
        return (self.kind, self.record_ids, self.subject_id, self.label)


@dataclass(frozen=True)
class Match:
    """The match of an ask: rows still to forget, rows erased before, ids that name nothing."""

    rows: tuple[int, ...]
    already_forgotten: int
    not_found: int

    @property
    def nothing(self) -> bool:
        """Return whether the dataset never held any of it."""
        return not self.rows and not self.already_forgotten


def match(
    session: Session, dataset: Dataset, asks: Sequence[Ask], *, digester: Digester
) -> list[Match]:
    """Match every ask (all of one dataset), in order; equal asks share one match.

    A record that another request is already forgetting counts as still to forget until its raw
    row is erased, so that this request does not end before that one.
    """
    by_id = _by_record_id(
        session,
        dataset,
        {form for ask in asks for one in ask.record_ids for form in record_forms(dataset, one)},
    )
    subjects = {digest for ask in asks for digest in _candidates(dataset, ask, digester)}
    by_subject = _by_subjects(session, [dataset.id], subjects).get(dataset.id, {})
    by_label = _by_label(session, dataset, {ask.label for ask in asks if ask.kind == "class"})
    found: dict[_What, Match] = {}
    for ask in asks:
        if ask.what in found:
            continue
        if ask.kind == "records":
            hits, missing = _of_records(by_id, dataset, ask)
        elif ask.kind == "subject":
            hits, missing = _of_subject(by_subject, dataset, ask, digester), 0
        else:
            found[ask.what] = by_label[ask.label]
            continue
        found[ask.what] = _match(hits, missing)
    return [found[ask.what] for ask in asks]


def rows_of(session: Session, dataset: Dataset, record_ids: Sequence[str]) -> list[int | None]:
    """Return the row of every id, in order; None if it names no record of the dataset."""
    forms = [record_forms(dataset, one) for one in record_ids]
    by_id = _by_record_id(session, dataset, {form for given in forms for form in given})
    kept = (_kept(given, by_id) for given in forms)
    return [None if form is None else by_id[form].row for form in kept]


def everywhere(
    session: Session, asks: Sequence[Ask], *, digester: Digester
) -> list[dict[str, Match]]:
    """Return, for every ask about a subject in all datasets, its match in each that holds some.

    Raise ``NoSubjectIds`` when no dataset knows the subjects of its records.
    """
    known = session.scalars(
        select(Dataset)
        .where(Dataset.status == DatasetStatus.READY, Dataset.subject_id_origin != Origin.ABSENT)
        .order_by(Dataset.id)
    ).all()
    if not known:
        raise NoSubjectIds(
            "no dataset has subject ids, so none can tell whose its records are; name a dataset "
            "and ask with record_ids, or ingest a source with the column that names the person"
        )
    wanted = {
        digest for data in known for ask in asks for digest in _candidates(data, ask, digester)
    }
    held = _by_subjects(session, [data.id for data in known], wanted)
    found: dict[_What, dict[str, Match]] = {}
    for ask in asks:
        if ask.what not in found:
            hits = {data: _of_subject(held.get(data.id, {}), data, ask, digester) for data in known}
            found[ask.what] = {data.name: _match(here, 0) for data, here in hits.items() if here}
    return [found[ask.what] for ask in asks]


def subject_digest(dataset: Dataset | None, subject_id: str, *, digester: Digester) -> str:
    """Return the digest under which a request stores its subject, 64 hex digits."""
    if dataset is None:
        return digester.subject(identifiers.normalise(subject_id))
    return digester.subject(_forms(dataset, subject_id)[0])


def require_ids(dataset: Dataset, ask: Ask) -> None:
    """Raise ``NoSuchIds`` when the dataset cannot match the ask's ids."""
    if ask.kind == "subject" and dataset.subject_id_origin == Origin.ABSENT:
        raise NoSubjectIds(
            f"dataset {dataset.name} has no subject ids and cannot tell whose its records are; "
            "ask with record_ids, or ingest the source again with the column that names the person"
        )
    generated = ask.kind == "records" and dataset.record_id_origin == Origin.GENERATED
    if generated and not all(map(_numbered, ask.record_ids)):
        raise NoRecordIds(
            f"the record ids of dataset {dataset.name} were generated, as its source has none, so "
            "ids of your own name nothing in it; name rows by the generated form, such as "
            f"{identifiers.generated(0, dataset.rows or 1)} for the source's first row, or ingest "
            "the source again with its column of record ids"
        )


@dataclass(frozen=True)
class _Hit:
    row: int
    erased: bool


def _match(hits: Iterable[_Hit], missing: int) -> Match:
    hits = list(hits)
    rows = tuple(sorted(hit.row for hit in hits if not hit.erased))
    return Match(rows, len(hits) - len(rows), missing)


def _by_record_id(session: Session, dataset: Dataset, wanted: set[str]) -> dict[str, _Hit]:
    return {
        name: _Hit(row, erased_at is not None)
        for chunk in _chunks(wanted)
        for row, erased_at, name in session.execute(
            _NAMED, {"dataset_id": dataset.id, "names": chunk}
        )
    }


_NAMED = select(Record.row, Record.erased_at, Record.record_id).where(
    Record.dataset_id == bindparam("dataset_id"),
    Record.record_id.in_(bindparam("names", expanding=True)),
)


def _of_records(by_id: dict[str, _Hit], dataset: Dataset, ask: Ask) -> tuple[list[_Hit], int]:
    """Return what the ask's record ids match, and how many of them match nothing."""
    hits: dict[str, _Hit] = {}
    unknown: set[str] = set()
    for forms in (record_forms(dataset, one) for one in ask.record_ids):
        kept = _kept(forms, by_id)
        if kept is None:
            unknown.add(forms[0])
        else:
            hits[kept] = by_id[kept]
    return list(hits.values()), len(unknown)


def _kept(forms: Sequence[str], by_id: Container[str]) -> str | None:
    """Return the form under which a record id is kept, or None.

    The unchanged form is tried first: a dataset of an earlier release may hold ids that differ only
    in what is now normalised.
    """
    return next((form for form in reversed(forms) if form in by_id), None)


def _by_subjects(
    session: Session, dataset_ids: Sequence[int], wanted: Iterable[str]
) -> dict[int, dict[str, list[_Hit]]]:
    """Return records of the datasets by dataset and subject digest."""
    found: dict[int, dict[str, list[_Hit]]] = {}
    for chunk in _chunks(wanted):
        for dataset_id, row, erased_at, digest in session.execute(
            select(Record.dataset_id, Record.row, Record.erased_at, Record.subject_digest).where(
                Record.dataset_id.in_(dataset_ids), Record.subject_digest.in_(chunk)
            )
        ):
            here = found.setdefault(dataset_id, {})
            here.setdefault(digest or "", []).append(_Hit(row, erased_at is not None))
    return found


def _of_subject(
    by_subject: dict[str, list[_Hit]], dataset: Dataset, ask: Ask, digester: Digester
) -> list[_Hit]:
    found = [
        [hit for digest in digests for hit in by_subject.get(digest, [])]
        for digests in _by_form(dataset, ask, digester)
    ]
    if dataset.id_case == identifiers.Case.DISTINCT:
        # Only the first form that matches: in old datasets other forms are other people.
        return next(filter(None, reversed(found)), [])
    return [hit for hits in found for hit in hits]


def _candidates(dataset: Dataset, ask: Ask, digester: Digester) -> list[str]:
    """Return digests under which the subject may be stored, for any form of its id and any key."""
    return [digest for digests in _by_form(dataset, ask, digester) for digest in digests]


def _by_form(dataset: Dataset, ask: Ask, digester: Digester) -> list[list[str]]:
    """Return digests of the subject by the forms of its id, the present one first."""
    if ask.subject_id is None:
        return []
    forms = _forms(dataset, ask.subject_id)
    return [digester.subject_candidates(dataset.name, form) for form in forms]


def record_forms(dataset: Dataset, text: str) -> tuple[str, ...]:
    """Return forms under which a record id may be kept; generated ones were once row numbers."""
    found = _numbered(text) if dataset.record_id_origin == Origin.GENERATED else None
    return (found[0], str(int(found[1]))) if found else _forms(dataset, text)


def _numbered(text: str) -> re.Match[str] | None:
    """Match a generated id, with its digits as [1]; None if it is not a generated one."""
    return _GENERATED.fullmatch(identifiers.normalise(text))


def _forms(dataset: Dataset, text: str) -> tuple[str, ...]:
    return identifiers.forms(text, fold_case=dataset.id_case == identifiers.Case.IGNORED)


def _by_label(
    session: Session, dataset: Dataset, labels: Collection[int | None]
) -> dict[int | None, Match]:
    """Return the match of each of the classes, looked up once for all asks."""
    rows = select(Record.row, Record.erased_at).where(Record.dataset_id == dataset.id)
    return {
        label: _match(
            (
                _Hit(row, erased_at is not None)
                for row, erased_at in session.execute(rows.where(Record.label == label))
            ),
            0,
        )
        for label in labels
    }


def _chunks(values: Iterable[str]) -> Iterator[list[str]]:
    ordered = iter(sorted(values))
    while chunk := list(islice(ordered, CHUNK)):
        yield chunk
