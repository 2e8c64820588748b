"""The texts that a dataset keeps of its rows, for those who may read them.

Erased texts are gone; those of excluded rows, whose erasure is still due, are not given any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.ledger.audit import chain
from service.ledger.database.tables import Dataset, Record
from service.ledger.registry import segments
from service.ledger.selection import matching


class NoTexts(Conflict):
    """The dataset keeps no texts."""

    code = "no-texts"


@dataclass(frozen=True)
class Place:
    """Where a text is in the store: the key of an array, and its position there."""

    key: str
    position: int


def places(session: Session, dataset: Dataset, record_ids: Sequence[str]) -> list[Place | None]:
    """Return where the texts of these records are; None for a record that is not there.

    Records that are excluded from training count as not there. Raise ``NoTexts``.
    """
    if dataset.text_key is None:
        raise NoTexts(
            f"dataset {dataset.name} keeps no texts; it would have had to be added with keep_text"
        )
    rows = _rows(session, dataset, record_ids)
    found = {
        segment.first + position: Place(segment.text_key, position)
        for segment, positions in segments.within(
            segments.of(session, dataset), [row for row in rows if row is not None]
        )
        if segment.text_key is not None
        for position in positions
    }
    return [None if row is None else found.get(row) for row in rows]


def was_read(session: Session, dataset: Dataset, *, count: int, actor: str) -> None:
    """Write the audit line of a reading of ``count`` texts; it names no record."""
    chain.append(
        session,
        actor=actor,
        action=chain.Action.DATASET_TEXTS_READ,
        subject=f"dataset:{dataset.name}",
        data={"texts": count},
    )


def decoded(row: npt.NDArray[np.uint8]) -> str | None:
    """Return the text of a row (bytes,) of UTF-8 with zeros at the end; None if it was erased."""
    return row.tobytes().rstrip(b"\0").decode() or None


def _rows(session: Session, dataset: Dataset, record_ids: Sequence[str]) -> list[int | None]:
    forms = [matching.record_forms(dataset, one) for one in record_ids]
    wanted = {form for one in forms for form in one}
    rows = session.execute(
        select(Record.record_id, Record.row).where(
            Record.dataset_id == dataset.id,
            Record.record_id.in_(wanted),
            Record.excluded_revision.is_(None),
            Record.erased_at.is_(None),
        )
    )
    known = {one.record_id: one.row for one in rows}
    return [next((known[form] for form in reversed(one) if form in known), None) for one in forms]
