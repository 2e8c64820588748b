"""What attacks say of single forgotten records: for auditors, and only while the raw rows stand.

A verification lists them with its metrics (``per_record``). They are personal data of the records,
so they are stored apart from it and deleted with the raw rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.ledger.database import inserts
from service.ledger.database.tables import Record, RecordScore, Version
from service.ledger.reports.declarations import PER_RECORD

#: The list of a metric that has an item with a ``row`` for each record.
_LIST = "per_record"
#: Rows of a DELETE, for the number of values that a statement takes.
_AT_ONCE = 10_000


def without(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return a verification without the lists of its metrics that are about single records."""
    metrics = measured.get("metrics")
    if not isinstance(metrics, Mapping):
        return dict(measured)
    left = {
        name: (
            {member: value for member, value in metric.items() if member not in PER_RECORD}
            if isinstance(metric, Mapping)
            else metric
        )
        for name, metric in metrics.items()
    }
    return {**measured, "metrics": left}


def keep(
    session: Session,
    dataset_id: int,
    version: Version,
    *,
    measured: Mapping[str, Any],
    rows: Collection[int],
) -> None:
    """Store the scores of those of ``rows``, the version's batch, whose raw data still stand.

    A pool's metric lists rows of earlier batches as well; these are left out.
    """
    found = _by_row(measured, set(rows))
    if not found:
        return
    stand = session.scalars(
        select(Record.row).where(
            Record.dataset_id == dataset_id, Record.row.in_(found), Record.erased_at.is_(None)
        )
    )
    made = [
        {"dataset_id": dataset_id, "row": row, "version_id": version.id, "scores": found[row]}
        for row in stand
    ]
    inserts.write(session, {RecordScore: made})


def page(
    session: Session, dataset_id: int, version: Version, *, limit: int, after: int
) -> list[tuple[str, dict[str, Any]]]:
    """Return (record id, scores) of a version's records, without the first ``after`` ones.

    Pages are counted, so that a cursor, which goes into an address, names no record.
    """
    wanted = (
        select(Record.record_id, RecordScore.scores)
        .join(
            Record,
            (Record.dataset_id == RecordScore.dataset_id) & (Record.row == RecordScore.row),
        )
        .where(RecordScore.dataset_id == dataset_id, RecordScore.version_id == version.id)
        .order_by(RecordScore.row)
        .offset(after)
        .limit(limit)
    )
    return [(record_id, scores) for record_id, scores in session.execute(wanted)]


def forget(session: Session, dataset_id: int, rows: Sequence[int] | None = None) -> None:
    """Delete the scores of rows whose raw data are overwritten; None: of the whole dataset."""
    stored = delete(RecordScore).where(RecordScore.dataset_id == dataset_id)
    stored = stored.execution_options(synchronize_session=False)
    if rows is None:
        session.execute(stored)
        return
    for first in range(0, len(rows), _AT_ONCE):
        session.execute(stored.where(RecordScore.row.in_(rows[first : first + _AT_ONCE])))


def _by_row(measured: Mapping[str, Any], rows: set[int]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    metrics = measured.get("metrics")
    for name, metric in (metrics if isinstance(metrics, Mapping) else {}).items():
        for one in metric.get(_LIST, ()) if isinstance(metric, Mapping) else ():
            if one["row"] in rows:
                scores = {member: value for member, value in one.items() if member != "row"}
                found.setdefault(one["row"], {})[name] = scores
    return found
