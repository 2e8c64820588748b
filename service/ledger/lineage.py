"""How a version came about: its chain back to the anchor, and how far it has drifted from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from service.ledger import versions
from service.ledger.tables import Batch, BatchRecord, Model, Record, Version


@dataclass(frozen=True)
class Drift:
    """What was forgotten since the anchor: approximate versions drift with it."""

    anchor: int
    batches: int
    forgotten: int
    #: Training rows that the anchor saw.
    anchor_rows: int
    #: Largest share of one class's rows that was forgotten, of classes not forgotten as such.
    class_share: float
    age_days: float
    #: How many of the forgotten rows are of classes that were forgotten as a class.
    of_whole_classes: int = 0

    @property
    def share(self) -> float:
        """Share of the anchor's rows; a class is meant to go whole, and does not count."""
        counted = self.forgotten - self.of_whole_classes
        return counted / self.anchor_rows if self.anchor_rows else 0.0


def chain(
    session: Session, version: Version, *, before: int | None = None, limit: int | None = None
) -> Sequence[Version]:
    """The version, its parent, and so on to its anchor; those numbered below ``before``."""
    start = select(Version.id, Version.parent_id, Version.anchor_id).where(Version.id == version.id)
    links = start.cte("links", recursive=True)
    parent = aliased(Version)
    links = links.union_all(
        select(parent.id, parent.parent_id, parent.anchor_id).where(
            parent.id == links.c.parent_id, links.c.id != links.c.anchor_id
        )
    )
    # A parent is always older than its child: numbers order the chain.
    wanted = select(Version).join(links, links.c.id == Version.id)
    if before is not None:
        wanted = wanted.where(Version.number < before)
    return session.scalars(wanted.order_by(Version.number.desc()).limit(limit)).all()


def drift(session: Session, model: Model, version: Version, *, now: datetime) -> Drift:
    """How far ``version`` is from its anchor."""
    anchor = session.get_one(Version, version.anchor_id)
    chained = versions.batch_chain(session, version)
    seen = _classes(session, model, anchor)
    gone = _forgotten_classes(session, model, chained)
    whole = _whole_classes(session, model, chained)
    shares = (count / seen[label] for label, count in gone.items() if label not in whole)
    return Drift(
        anchor=anchor.number,
        batches=len(chained),
        forgotten=sum(gone.values()),
        anchor_rows=sum(seen.values()),
        class_share=max(shares, default=0.0),
        age_days=max(0.0, (now - anchor.created_at).total_seconds() / 86_400),
        of_whole_classes=sum(count for label, count in gone.items() if label in whole),
    )


def _classes(session: Session, model: Model, anchor: Version) -> dict[int, int]:
    """Training rows of the anchor per class."""
    rows = session.execute(
        select(Record.label, func.count())
        .where(Record.dataset_id == model.dataset_id, versions.contained(anchor, chain=()))
        .group_by(Record.label)
    )
    return dict(rows.all())


def _forgotten_classes(session: Session, model: Model, batch_ids: Sequence[str]) -> dict[int, int]:
    rows = session.execute(
        select(Record.label, func.count(func.distinct(Record.row)))
        .join(BatchRecord, BatchRecord.row == Record.row)
        .where(Record.dataset_id == model.dataset_id, BatchRecord.batch_id.in_(batch_ids))
        .group_by(Record.label)
    )
    return dict(rows.all())


def _whole_classes(session: Session, model: Model, batch_ids: Sequence[str]) -> set[int]:
    """Classes that one of the batches forgot as a class."""
    return set(
        session.scalars(
            select(Record.label)
            .join(BatchRecord, BatchRecord.row == Record.row)
            .join(Batch, Batch.id == BatchRecord.batch_id)
            .where(
                Record.dataset_id == model.dataset_id,
                Batch.id.in_(batch_ids),
                Batch.kind == "class",
            )
            .distinct()
        )
    )
