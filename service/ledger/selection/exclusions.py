"""Exclusions: the records that are excluded from training, in the order of their exclusion.

``records`` says of each row whether it is excluded and erased. The table ``exclusions`` lists the
excluded ones, so that they need not be searched for; triggers on ``records`` maintain it
(``triggers``), also when a row is changed by hand. It replaces indexes on these two columns: with
such an index, changing a row would write to every other index of its table again, and ``records``
has the largest ones.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, select

from service.ledger.database.tables import Exclusion, Record


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
