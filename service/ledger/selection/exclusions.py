"""Exclusions: the records that are out of training, in the order in which they were taken out.

``records`` says of each row whether it is excluded and overwritten. The table ``exclusions`` says
which rows are, so that nobody looks for them among all; triggers on ``records`` keep it
(``triggers``), also when a row is changed by hand. It is what indexes on these two columns would
be, with one difference: a row that is in such an index is written to every other index of its table
again when it changes, and ``records`` has the widest ones.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, select

from service.ledger.database.tables import Exclusion, Record


def rows(dataset_id: Any, *, after: Any = 0, until: int | None = None) -> Select[int]:
    """Select of the rows of a dataset that were excluded after one revision and by another."""
    wanted = select(Exclusion.row).where(
        Exclusion.dataset_id == dataset_id, Exclusion.revision > after
    )
    return wanted if until is None else wanted.where(Exclusion.revision <= until)


def standing(dataset_id: Any) -> Select[int]:
    """Select of the excluded rows of a dataset that are still to be overwritten."""
    return select(Exclusion.row).where(Exclusion.dataset_id == dataset_id, Exclusion.standing)


def between(dataset_id: int, *, after: int = 0, until: int | None = None) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is one of ``rows``."""
    return and_(
        Record.dataset_id == dataset_id,
        Record.row.in_(rows(dataset_id, after=after, until=until)),
    )
