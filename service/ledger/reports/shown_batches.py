"""Decide whether figures of a batch's forgotten rows may be shown beside those shown before.

A batch that fails leaves a rejected version, and its requests are claimed again: in halves, or with
others that came meanwhile, and from another version if one was promoted in between. The figures of
the control are those of the base version, and references are models that belong to the anchor. So
if two batches from one anchor, or from models with the same weights, differ by a few rows, the
difference of two tables is the figures of these rows. So it is if a batch differs by a few rows
from a whole set that was shown, such as that of a short record list.

Three tables and more can do the same. Rows are excluded when they are claimed, so between two shown
sets of one basis lie the rows of the batches in between, and those of batches that failed: if few
are left over without the batches that are shown, they are what the sets less these batches tell.
And a batch of which all but a few rows are those of other ones tells these few.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, Subquery, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from service.ledger.database.tables import Batch, BatchRecord, Model, Version
from service.ledger.reports import shown_sets
from service.ledger.reports.disclosure import LEAST_ROWS


def apart(session: Session, version: Version) -> int:
    """Return by how few rows the batch differs from what was shown; 0: by enough or nothing.

    It is 0, too, for a batch with too few rows to be shown at all, and for the same rows again. The
    caller has called ``shown_sets.hold`` for the model's dataset, and ``shown_sets.show`` for the
    version.
    """
    batch = None if version.batch_id is None else session.get_one(Batch, version.batch_id)
    if batch is None or batch.records < LEAST_ROWS:
        return 0
    model = session.get_one(Model, version.model_id)
    rows = session.scalars(select(BatchRecord.row).where(BatchRecord.batch_id == batch.id)).all()
    found = [shown_sets.near_rows(session, model.dataset_id, rows)]
    for records, common in _others(session, batch, version):
        found.append(batch.records + records - 2 * common)
    found += _left_over(session, model.dataset_id, batch, version, frozenset(rows))
    return min((few for few in found if 0 < few < LEAST_ROWS), default=0)


def _left_over(
    session: Session, dataset_id: int, batch: Batch, version: Version, mine: frozenset[int]
) -> list[int]:
    """Return how many rows are left over of what the batch and other shown ones make up.

    That may be the rows between two shown sets, another batch, or this one.
    """
    between = shown_sets.between_shown(session, dataset_id, batch.id)
    others = _shown_batches(session, batch, version, [one.subquery() for one in between])
    most = len(mine) + sum(map(len, others)) + LEAST_ROWS
    wholes = [frozenset(session.scalars(one.limit(most))) for one in between]
    found = [_rest(mine, others)]
    for whole in (*wholes, *others):
        if 2 * len(mine & whole) > len(mine):
            found.append(_rest(whole, [mine, *(one for one in others if one is not whole)]))
    return found


def _rest(whole: frozenset[int], parts: Sequence[frozenset[int]]) -> int:
    """Return by how many rows a set differs from those of the parts that mostly lie in it."""
    inside = [part for part in parts if 2 * len(part & whole) > len(part)]
    return len(whole.symmetric_difference(frozenset().union(*inside)))


def _shown_batches(
    session: Session, batch: Batch, version: Version, between: Sequence[Subquery]
) -> list[frozenset[int]]:
    """Return the rows of other batches that may be shown and lie near the batch.

    They are those of ``_related`` with rows in between, or rows of one that shares some with the
    batch.
    """
    related = _related(session, batch, version)
    own = select(BatchRecord.row).where(BatchRecord.batch_id == batch.id)
    sharing = related.where(_has_rows(own))
    theirs = select(BatchRecord.row).where(BatchRecord.batch_id.in_(sharing))
    near = [theirs, *(select(one.c.row) for one in between)]
    wanted = related.where(
        Batch.id != batch.id, Batch.records >= LEAST_ROWS, or_(*map(_has_rows, near))
    )
    listed = session.execute(
        select(BatchRecord.batch_id, BatchRecord.row).where(BatchRecord.batch_id.in_(wanted))
    )
    rows: dict[str, set[int]] = {}
    for batch_id, row in listed:
        rows.setdefault(batch_id, set()).add(row)
    return list(map(frozenset, rows.values()))


def _has_rows(rows: Select[int]) -> ColumnElement[bool]:
    """Return SQL: ``Batch`` has one of these rows."""
    theirs = aliased(BatchRecord)
    return exists().where(theirs.batch_id == Batch.id, theirs.row.in_(rows))


def _others(session: Session, batch: Batch, version: Version) -> list[tuple[int, int]]:
    """Return (rows, rows in common) of those ``_related`` that have rows in common with the batch.

    They have a version.
    """
    mine, theirs = aliased(BatchRecord), aliased(BatchRecord)
    common = (
        select(theirs.batch_id, func.count().label("rows"))
        .join(mine, mine.row == theirs.row)
        .where(mine.batch_id == batch.id, theirs.batch_id != batch.id)
        .group_by(theirs.batch_id)
        .subquery()
    )
    found = session.execute(
        select(Batch.records, common.c.rows)
        .join(common, common.c.batch_id == Batch.id)
        .where(Batch.id.in_(_related(session, batch, version)))
    )
    return [(records, rows) for records, rows in found]


def _related(session: Session, batch: Batch, version: Version) -> Select[str]:
    """Select ids of batches whose tables may be subtracted from the batch's.

    They are of the same model, or of one of the dataset whose base or anchor has the same weights.
    """
    base, anchor = aliased(Version), aliased(Version)
    own_base = session.get_one(Version, batch.base_version_id)
    own_anchor = session.get_one(Version, own_base.anchor_id or own_base.id)
    return (
        select(Batch.id)
        .join(Model, Model.id == Batch.model_id)
        .join(base, base.id == Batch.base_version_id)
        .join(anchor, anchor.id == func.coalesce(base.anchor_id, base.id))
        .where(
            Model.dataset_id == session.get_one(Model, version.model_id).dataset_id,
            or_(
                Batch.model_id == version.model_id,
                base.digest == own_base.digest,
                anchor.digest == own_anchor.digest,
            ),
        )
    )
