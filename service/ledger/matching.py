"""Which records of a dataset a deletion request means, for many requests with few statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.digests import Digester
from service.ledger.tables import Dataset, Record

#: Values per statement: below the 32,766 variables of SQLite and the 65,535 of PostgreSQL.
CHUNK = 10_000

Kind = Literal["records", "subject", "class"]


@dataclass(frozen=True)
class Ask:
    """What one client asks to forget. What identifies a person stays out of its ``repr``."""

    dataset: str
    kind: Kind
    record_ids: tuple[str, ...] = field(default=(), repr=False)
    subject_id: str | None = field(default=None, repr=False)
    label: int | None = field(default=None, repr=False)
    reason: str | None = field(default=None, repr=False)
    client_reference: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Match:
    """What an ask met: rows still to forget, rows erased before, ids that name nothing."""

    rows: tuple[int, ...]
    already_forgotten: int
    not_found: int

    @property
    def nothing(self) -> bool:
        """Whether the dataset never held any of it."""
        return not self.rows and not self.already_forgotten


def match(
    session: Session, dataset: Dataset, asks: Sequence[Ask], *, digester: Digester
) -> list[Match]:
    """The match of every ask (all of one dataset), in order.

    A record that another request is already forgetting counts as still to forget until its raw
    row is erased, so that this request does not end before that one.
    """
    by_id = _by_record_id(session, dataset, {one for ask in asks for one in ask.record_ids})
    by_subject = _by_subject(session, dataset, asks, digester)
    found: list[Match] = []
    for ask in asks:
        if ask.kind == "records":
            hits = [by_id[one] for one in dict.fromkeys(ask.record_ids) if one in by_id]
            missing = len(set(ask.record_ids)) - len(hits)
        elif ask.kind == "subject":
            hits, missing = _of_subject(by_subject, dataset, ask, digester), 0
        else:
            hits, missing = _of_label(session, dataset, ask), 0
        found.append(_match(hits, missing))
    return found


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
            select(Record.row, Record.erased_at, Record.record_id).where(
                Record.dataset_id == dataset.id, Record.record_id.in_(chunk)
            )
        )
    }


def _by_subject(
    session: Session, dataset: Dataset, asks: Sequence[Ask], digester: Digester
) -> dict[str, list[_Hit]]:
    wanted = {
        digest
        for ask in asks
        if ask.subject_id is not None
        for digest in digester.subject_candidates(dataset.name, ask.subject_id)
    }
    found: dict[str, list[_Hit]] = {}
    for chunk in _chunks(wanted):
        for row, erased_at, digest in session.execute(
            select(Record.row, Record.erased_at, Record.subject_digest).where(
                Record.dataset_id == dataset.id, Record.subject_digest.in_(chunk)
            )
        ):
            found.setdefault(digest or "", []).append(_Hit(row, erased_at is not None))
    return found


def _of_subject(
    by_subject: dict[str, list[_Hit]], dataset: Dataset, ask: Ask, digester: Digester
) -> list[_Hit]:
    assert ask.subject_id is not None
    candidates = digester.subject_candidates(dataset.name, ask.subject_id)
    return [hit for digest in candidates for hit in by_subject.get(digest, [])]


def _of_label(session: Session, dataset: Dataset, ask: Ask) -> list[_Hit]:
    of_class = select(Record.row, Record.erased_at).where(
        Record.dataset_id == dataset.id, Record.label == ask.label
    )
    return [_Hit(row, erased_at is not None) for row, erased_at in session.execute(of_class)]


def _chunks(values: Iterable[str]) -> Iterator[list[str]]:
    ordered = iter(sorted(values))
    while chunk := list(islice(ordered, CHUNK)):
        yield chunk
