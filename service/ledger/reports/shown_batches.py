"""Decide whether figures of a batch's forgotten rows may be shown beside those shown before.

A batch that fails leaves a rejected version, and its requests are claimed again: in halves, or with
others that came meanwhile, and from another version if one was promoted in between. The figures of
the control are those of the base version, and references are models that belong to the anchor. So
if two batches from one anchor, or from models with the same weights, differ by a few rows, the
difference of two tables is the figures of these rows. So it is if a batch differs by a few rows
from a whole set that was shown, such as that of a short record list.
"""

from __future__ import annotations

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased

from service.ledger.database.tables import Batch, BatchRecord, Model, Version
from service.ledger.reports import shown_sets
from service.ledger.reports.disclosure import LEAST_ROWS


def apart(session: Session, version: Version) -> int:
    """Return by how few rows the batch differs from what was shown; 0: by enough or nothing.

    It is 0, too, for a batch with too few rows to be shown at all, and for the same rows again. The
    caller has called ``shown_sets.hold`` for the model's dataset.
    """
    batch = None if version.batch_id is None else session.get_one(Batch, version.batch_id)
    if batch is None or batch.records < LEAST_ROWS:
        return 0
    dataset_id = session.get_one(Model, version.model_id).dataset_id
    rows = session.scalars(select(BatchRecord.row).where(BatchRecord.batch_id == batch.id)).all()
    found = [shown_sets.near_rows(session, dataset_id, rows)]
    for records, common in _others(session, dataset_id, batch, version):
        found.append(batch.records + records - 2 * common)
    return min((few for few in found if 0 < few < LEAST_ROWS), default=0)


def _others(
    session: Session, dataset_id: int, batch: Batch, version: Version
) -> list[tuple[int, int]]:
    """Return (rows, rows in common) of batches whose tables may be subtracted from the batch's.

    They have a version, and rows in common, and are of the same model, or of one whose base or
    anchor has the same weights.
    """
    mine, theirs = aliased(BatchRecord), aliased(BatchRecord)
    common = (
        select(theirs.batch_id, func.count().label("rows"))
        .join(mine, mine.row == theirs.row)
        .where(mine.batch_id == batch.id, theirs.batch_id != batch.id)
        .group_by(theirs.batch_id)
        .subquery()
    )
    base, anchor = aliased(Version), aliased(Version)
    own_base = session.get_one(Version, batch.base_version_id)
    own_anchor = session.get_one(Version, own_base.anchor_id or own_base.id)
    found = session.execute(
        select(Batch.records, common.c.rows)
        .join(common, common.c.batch_id == Batch.id)
        .join(Model, Model.id == Batch.model_id)
        .join(base, base.id == Batch.base_version_id)
        .join(anchor, anchor.id == func.coalesce(base.anchor_id, base.id))
        .where(
            Model.dataset_id == dataset_id,
            or_(
                Batch.model_id == version.model_id,
                base.digest == own_base.digest,
                anchor.digest == own_anchor.digest,
            ),
        )
    )
    return [(records, rows) for records, rows in found]
