"""Exclusions: the records that are excluded from training, in the order of their exclusion.

``records`` says of each row whether it is excluded and erased. The table ``exclusions`` lists the
excluded ones, so that they need not be searched for; triggers on ``records`` maintain it
(``triggers``), also when a row is changed by hand. It replaces indexes on these two columns: with
such an index, changing a row would write to every other index of its table again, and ``records``
has the largest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from service.ledger.database import locks, taken
from service.ledger.database.tables import Dataset, Exclusion, Record
from service.ledger.selection import naming


def rows(dataset_id: Any, *, after: Any = 0, until: int | None = None) -> Select[int]:
    """Select the rows of a dataset that were excluded after one revision and up to another."""
    wanted = select(Exclusion.row).where(
        Exclusion.dataset_id == dataset_id, Exclusion.revision > after
    )
    return wanted if until is None else wanted.where(Exclusion.revision <= until)


def standing(dataset_id: Any) -> Select[int]:
    """Select the excluded rows of a dataset that are still to be erased."""
    return select(Exclusion.row).where(Exclusion.dataset_id == dataset_id, Exclusion.standing)


def between(dataset_id: int, *, after: int = 0, until: int | None = None) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is one of ``rows``."""
    return and_(
        Record.dataset_id == dataset_id,
        Record.row.in_(rows(dataset_id, after=after, until=until)),
    )


@dataclass(frozen=True)
class Excluded:
    """What was excluded at a revision of a dataset: (row, label, split, erased_at) of each."""

    revision: int
    records: Sequence[Row[int, int, int, datetime | None]]


def exclude(session: Session, dataset_id: int, names: naming.Names) -> Excluded:
    """Exclude the named records from all training from now on; return those newly excluded."""
    revision = session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id)
        .values(revision=Dataset.revision + 1)
        .returning(Dataset.revision)
        .execution_options(synchronize_session=False)
    ).scalar_one()
    locked = locks.locked_dataset(session, dataset_id)
    if locked is not None:
        set_committed_value(locked, "revision", revision)
    records: list[Row[int, int, int, datetime | None]] = []
    for theirs in naming.named(names):
        records += session.execute(
            update(Record)
            .where(Record.dataset_id == dataset_id, Record.excluded_revision.is_(None), theirs)
            .values(excluded_revision=revision)
            .returning(Record.row, Record.label, Record.split, Record.erased_at)
            .execution_options(synchronize_session=False)
        )
    rows = sorted(one.row for one in records)
    taken.keep(session, ("just excluded", dataset_id), (revision, rows))
    return Excluded(int(revision), records)


def just_excluded(
    session: Session, dataset_id: int, *, after: int, revision: int
) -> list[int] | None:
    """Return rows excluded between two revisions, if this transaction has excluded them itself.

    None: they must be read.
    """
    kept: tuple[int, list[int]] | None = taken.find(session, ("just excluded", dataset_id))
    return kept[1] if kept is not None and kept[0] == revision == after + 1 else None
