"""How a version came about: its chain back to the anchor, and how far it has drifted from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.ledger import versions
from service.ledger.tables import Batch, BatchRecord, Model, Record, Verification, Version


@dataclass(frozen=True)
class Link:
    """One version of a chain with the batch that made it."""

    version: Version
    parent: int | None
    batch: Batch | None
    verdict: str | None
    #: Records that the batch forgot.
    records: int


@dataclass(frozen=True)
class Drift:
    """What was forgotten since the anchor: approximate versions drift with it."""

    anchor: int
    batches: int
    forgotten: int
    #: Training rows that the anchor saw.
    anchor_rows: int
    #: Largest share of one class's rows that was forgotten.
    class_share: float
    age_days: float

    @property
    def share(self) -> float:
        """Share of the anchor's rows."""
        return self.forgotten / self.anchor_rows if self.anchor_rows else 0.0


def chain(session: Session, version: Version) -> list[Link]:
    """The version, its parent, and so on to the first one, newest first."""
    line = versions.lineage(session, version)
    numbers = {one.id: one.number for one in line}
    batches = _batches(session, line)
    counts = _forgotten(session, [batch.id for batch in batches.values()])
    verdicts = _verdicts(session, line)
    return [
        Link(
            version=one,
            parent=None if one.parent_id is None else numbers.get(one.parent_id),
            batch=(batch := batches.get(one.id)),
            verdict=verdicts.get(one.id),
            records=0 if batch is None else counts.get(batch.id, 0),
        )
        for one in line
    ]


def drift(session: Session, model: Model, version: Version, *, now: datetime) -> Drift:
    """How far ``version`` is from its anchor."""
    anchor = session.get_one(Version, version.anchor_id)
    chained = versions.batch_chain(session, version)
    seen = _classes(session, model, anchor)
    gone = _forgotten_classes(session, model, chained)
    return Drift(
        anchor=anchor.number,
        batches=len(chained),
        forgotten=sum(gone.values()),
        anchor_rows=sum(seen.values()),
        class_share=max((count / seen[label] for label, count in gone.items()), default=0.0),
        age_days=max(0.0, (now - anchor.created_at).total_seconds() / 86_400),
    )


def _batches(session: Session, line: Sequence[Version]) -> dict[int, Batch]:
    """The batch that made each version, by the version's id."""
    made_by = {one.batch_id: one.id for one in line if one.batch_id is not None}
    found = session.scalars(select(Batch).where(Batch.id.in_(made_by)))
    return {made_by[batch.id]: batch for batch in found}


def _forgotten(session: Session, batch_ids: Sequence[str]) -> dict[str, int]:
    rows = session.execute(
        select(BatchRecord.batch_id, func.count())
        .where(BatchRecord.batch_id.in_(batch_ids))
        .group_by(BatchRecord.batch_id)
    )
    return dict(rows.tuples().all())


def _verdicts(session: Session, line: Sequence[Version]) -> dict[int, str]:
    rows = session.execute(
        select(Verification.version_id, Verification.verdict).where(
            Verification.version_id.in_([one.id for one in line])
        )
    )
    return dict(rows.tuples().all())


def _classes(session: Session, model: Model, anchor: Version) -> dict[int, int]:
    """Training rows of the anchor per class."""
    rows = session.execute(
        select(Record.label, func.count())
        .where(Record.dataset_id == model.dataset_id, versions.contained(anchor, chain=()))
        .group_by(Record.label)
    )
    return dict(rows.tuples().all())


def _forgotten_classes(session: Session, model: Model, batch_ids: Sequence[str]) -> dict[int, int]:
    rows = session.execute(
        select(Record.label, func.count(func.distinct(Record.row)))
        .join(BatchRecord, BatchRecord.row == Record.row)
        .where(Record.dataset_id == model.dataset_id, BatchRecord.batch_id.in_(batch_ids))
        .group_by(Record.label)
    )
    return dict(rows.tuples().all())
