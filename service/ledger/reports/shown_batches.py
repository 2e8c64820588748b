"""Decide whether figures of a batch's forgotten rows may be shown beside those of another batch.

A batch that fails leaves a rejected version, and its requests are claimed again: in halves, or with
others that came meanwhile. Both batches begin with the same version, the control, whose figures on
either batch's rows are shown. If the two batches differ by a few rows, the difference of the two
tables is the figures of these rows.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from service.ledger.database.tables import Batch, BatchRecord, Version
from service.ledger.reports.disclosure import LEAST_ROWS


def apart(session: Session, version: Version) -> int:
    """Return by how few rows the batch differs from one of the same base; 0: by enough or nothing.

    It is 0, too, for a batch with too few rows to be shown at all, and for the same rows again.
    """
    batch = None if version.batch_id is None else session.get_one(Batch, version.batch_id)
    if batch is None or batch.records < LEAST_ROWS:
        return 0
    found = 0
    for other_id, records in _others(session, batch, version):
        rows = batch.records + records - 2 * _common(session, batch.id, other_id)
        if 0 < rows < LEAST_ROWS:
            found = min(rows, found or rows)
    return found


def _others(session: Session, batch: Batch, version: Version) -> list[tuple[str, int]]:
    """Return (id, rows) of other batches that made a version from the same base."""
    base = session.get_one(Version, batch.base_version_id)
    made = (
        select(Version.batch_id)
        .where(
            Version.model_id == version.model_id,
            Version.number > base.number,
            Version.parent_id == base.id,
            Version.batch_id != batch.id,
        )
        .distinct()
    )
    rows = session.execute(select(Batch.id, Batch.records).where(Batch.id.in_(made)))
    return [(other_id, records) for other_id, records in rows]


def _common(session: Session, one: str, other: str) -> int:
    theirs = aliased(BatchRecord)
    wanted = (
        select(func.count())
        .select_from(BatchRecord)
        .join(theirs, theirs.row == BatchRecord.row)
        .where(BatchRecord.batch_id == one, theirs.batch_id == other)
    )
    return session.scalar(wanted) or 0
