"""Lineage: a version's chain back to its anchor, and what was forgotten along it.

Versions lie on *lines*. An anchor begins a line; a version unlearned from the newest one of a line
continues it, one from an earlier version (after a rollback) begins another, and so does one that
is rejected: nothing follows it. A version's chain is then the part of its line up to its number,
before that the part of the line from which its own branched off, and so on: in most cases one range
of numbers, however many versions there are.
Sums along the chain are stored with each version (``place``), so that they need not be recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from service.ledger.database import inserts, taken
from service.ledger.database.tables import (
    Batch,
    BatchRecord,
    Dataset,
    Model,
    Record,
    RecordListRow,
    Version,
)
from service.ledger.selection import exclusions

TRAIN_SPLIT = 0


@dataclass(frozen=True)
class Drift:
    """What was forgotten since the anchor, which limits how far approximate versions may drift."""

    anchor: int
    batches: int
    forgotten: int
    #: Training rows that the anchor saw.
    anchor_rows: int
    #: Largest forgotten share of one class's rows, of classes not forgotten as a class.
    class_share: float
    age_days: float
    #: Number of forgotten rows in classes that were forgotten as a class.
    of_whole_classes: int = 0

    @property
    def share(self) -> float:
        """Return the share of the anchor's rows, without classes that were forgotten as a class."""
        counted = self.forgotten - self.of_whole_classes
        return counted / self.anchor_rows if self.anchor_rows else 0.0


def read(session: Session, version_id: int) -> Version:
    """Return a version, read together with its anchor; both are cached for the transaction."""
    anchor = aliased(Version)
    version, start = session.execute(
        select(Version, anchor)
        .outerjoin(anchor, anchor.id == Version.anchor_id)
        .where(Version.id == version_id)
    ).one()
    taken.keep(session, ("version and anchor", version_id), (version, start))
    found: Version = version
    return found


def chain(
    session: Session, version: Version, *, before: int | None = None, limit: int | None = None
) -> Sequence[Version]:
    """Return the version, its parent, and so on to its anchor; only those below ``before``."""
    wanted = select(Version).where(on_chain(session, version, Version))
    if before is not None:
        wanted = wanted.where(Version.number < before)
    return session.scalars(wanted.order_by(Version.number.desc()).limit(limit)).all()


def batch_chain(session: Session, version: Version) -> list[str]:
    """Return ids of the batches from the version's anchor to the version, oldest first."""
    wanted = (
        select(Version.batch_id)
        .where(since_anchor(session, version, Version), Version.batch_id.is_not(None))
        .order_by(Version.number)
    )
    return [str(batch_id) for batch_id in session.scalars(wanted)]


def on_chain(session: Session, version: Version, made: Any) -> ColumnElement[bool]:
    """Return SQL: ``made`` (``Version`` or an alias) is the version, an ancestor or the anchor.

    Reads as many versions as there are branches along the chain, in most cases none.
    """
    parts, end = [], version
    while True:
        parts.append(and_(made.line_id == end.line_id, made.number <= end.number))
        if end.line_id == version.anchor_id:
            return or_(*parts)
        first = session.get_one(Version, end.line_id)
        end = session.get_one(Version, first.parent_id)


def since_anchor(session: Session, version: Version, made: Any) -> ColumnElement[bool]:
    """Return SQL: as ``on_chain``, without the anchor.

    An anchor made by a batch (a retrain) contains none of that batch's rows from the start.
    """
    return and_(on_chain(session, version, made), made.id != version.anchor_id)


def of_training(record_list_id: str | None, rows: int) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is one of a training's rows, regardless of exclusions.

    These are the rows of the record list that a version was imported with, or else those of the
    train split among the first ``rows`` of the dataset: the others were appended later.
    """
    if record_list_id is None:
        return and_(Record.split == TRAIN_SPLIT, Record.row < rows)
    return exists().where(RecordListRow.list_id == record_list_id, RecordListRow.row == Record.row)


def contained(session: Session, version: Version) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is training data that the version still contains.

    The caller restricts the dataset. Of the excluded records, only those excluded after the
    version's ``clean_revision`` can be in it.
    """
    still = Record.excluded_revision > version.clean_revision
    if version.id != version.anchor_id:
        still = and_(still, ~_forgotten(session, version))
    used = of_training(version.record_list_id, version.data_rows)
    return and_(used, or_(Record.excluded_revision.is_(None), still))


def contained_and_excluded(
    session: Session, version: Version, *, since: int | None = None
) -> ColumnElement[bool]:
    """Return SQL: ``Record`` is excluded from training, and the version still contains it.

    Reads only what was excluded after the version's ``clean_revision``, or after the revision
    ``since`` if that one is not to be trusted.
    """
    dataset_id = session.get_one(Model, version.model_id).dataset_id
    after = version.clean_revision if since is None else since
    return and_(
        exclusions.between(dataset_id, after=after),
        of_training(version.record_list_id, version.data_rows),
        *(() if version.id == version.anchor_id else (~_forgotten(session, version),)),
    )


def _forgotten(session: Session, version: Version) -> ColumnElement[bool]:
    made = aliased(Version)
    return exists().where(
        BatchRecord.row == Record.row,
        made.batch_id == BatchRecord.batch_id,
        since_anchor(session, version, made),
    )


def place(session: Session, model: Model, version: Version, parent: Version | None) -> None:
    """Set a version's line and the sums along its chain.

    ``parent`` is the version whose weights it was made from; None for an anchor. A new version that
    begins a line gets the line once it has an id: see ``begin_line``.
    """
    if version.batch_id is not None:
        _list_rows(session, version.batch_id)
    if parent is None:
        version.line_id = version.id
        version.clean_revision = version.data_revision
        version.batches_since_anchor, version.whole_classes = 0, []
        version.forgotten_classes = {}
        version.trained_classes = _trained(session, model, version)
        held = contained_and_excluded(session, version)
    else:
        version.line_id = version.id if _continued(session, version, parent) else parent.line_id
        version.clean_revision = parent.clean_revision
        _add_up(session, model, version, parent)
        held = contained_and_excluded(session, parent)
        if version.batch_id is not None:
            held = and_(held, ~_in_batch(version.batch_id))
    version.clean_revision = max(version.clean_revision, _clean(session, model, held))


def _list_rows(session: Session, batch_id: str) -> None:
    """List the rows of a batch, as its version is registered: from now on they are looked up."""
    batch = session.get_one(Batch, batch_id)
    if batch.rows is not None:
        listed = [{"batch_id": batch.id, "row": row} for row in batch.rows]
        inserts.write(session, {BatchRecord: listed})
        batch.rows = None


def begin_line(version: Version) -> None:
    """Begin a line with a version that has an id and no line yet."""
    if version.line_id is None:
        version.line_id = version.id


def leave_line(version: Version) -> None:
    """Take the version off its line, so that its parent's next version continues that line."""
    if version.id != version.anchor_id:
        version.line_id = version.id


def doubt(version: Version) -> None:
    """Distrust the version's ``clean_revision``, because the version holds what it should not."""
    version.clean_revision = version.data_revision


def drift(session: Session, version: Version, *, now: datetime) -> Drift:
    """Return how much was forgotten between the anchor and ``version``."""
    anchor = session.get_one(Version, version.anchor_id)
    seen, gone = anchor.trained_classes or {}, version.forgotten_classes
    whole = {str(label) for label in version.whole_classes}
    shares = (count / seen[label] for label, count in gone.items() if label not in whole)
    return Drift(
        anchor=anchor.number,
        batches=version.batches_since_anchor,
        forgotten=sum(gone.values()),
        anchor_rows=sum(seen.values()),
        class_share=max(shares, default=0.0),
        age_days=max(0.0, (now - anchor.created_at).total_seconds() / 86_400),
        of_whole_classes=sum(count for label, count in gone.items() if label in whole),
    )


def left_of_classes(session: Session, version: Version) -> dict[int, int]:
    """Return how many training rows of each class the version still contains."""
    anchor = session.get_one(Version, version.anchor_id)
    gone = version.forgotten_classes
    seen = (anchor.trained_classes or {}).items()
    return {int(label): count - gone.get(label, 0) for label, count in seen}


def _continued(session: Session, version: Version, parent: Version) -> bool:
    """Return whether the parent's line already continues after it."""
    if version.number == parent.number + 1:
        return False  # nothing came between
    later = select(Version.id).where(
        Version.line_id == parent.line_id,
        Version.number > parent.number,
        Version.number < version.number,
    )
    return session.scalar(later.limit(1)) is not None


def _add_up(session: Session, model: Model, version: Version, parent: Version) -> None:
    batch = None if version.batch_id is None else session.get_one(Batch, version.batch_id)
    here = {} if batch is None else _classes(session, model, batch.id)
    gone = dict(parent.forgotten_classes)
    for label, count in here.items():
        gone[label] = gone.get(label, 0) + count
    whole = set(parent.whole_classes)
    if batch is not None and batch.kind == "class":
        whole |= {int(label) for label in here}
    version.batches_since_anchor = parent.batches_since_anchor + (batch is not None)
    version.forgotten_classes, version.whole_classes = gone, sorted(whole)


def _classes(session: Session, model: Model, batch_id: str) -> dict[str, int]:
    rows = session.execute(
        select(Record.label, func.count())
        .join(BatchRecord, BatchRecord.row == Record.row)
        .where(Record.dataset_id == model.dataset_id, BatchRecord.batch_id == batch_id)
        .group_by(Record.label)
    )
    return {str(label): count for label, count in rows}


def _trained(session: Session, model: Model, anchor: Version) -> dict[str, int]:
    """Return the anchor's training rows per class; read once if it was trained on all rows."""
    rows = session.execute(
        select(Record.label, func.count())
        .where(Record.dataset_id == model.dataset_id, contained(session, anchor))
        .group_by(Record.label)
    )
    return {str(label): count for label, count in rows}


def _in_batch(batch_id: str) -> ColumnElement[bool]:
    return exists().where(BatchRecord.batch_id == batch_id, BatchRecord.row == Record.row)


def _clean(session: Session, model: Model, held: ColumnElement[bool]) -> int:
    """Return the last revision up to which no excluded record is one of ``held``.

    One statement, so that no exclusion comes between reading the revision and the records.
    """
    first = (
        select(func.min(Record.excluded_revision))
        .where(Record.dataset_id == model.dataset_id, held)
        .scalar_subquery()
    )
    revision, first_held = session.execute(
        select(Dataset.revision, first).where(Dataset.id == model.dataset_id)
    ).one()
    return int(revision if first_held is None else first_held - 1)
