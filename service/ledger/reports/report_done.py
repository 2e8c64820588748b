"""What was done, in an audit report: the version, its batch or training, and what it never saw."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.ledger.audit import canonical
from service.ledger.database.tables import BatchRecord, Record, TrainingRun, Version
from service.ledger.reports import caveats, comparisons, disclosure, report_loaded
from service.ledger.selection import exclusions
from service.ledger.selection.digests import Digester


def done(
    session: Session, loaded: report_loaded.Loaded, digester: Digester, guarantee: caveats.Guarantee
) -> dict[str, Any]:
    """Return how the version was made, from what, and when its status changed."""
    version, base = loaded.version, loaded.chain[1] if len(loaded.chain) > 1 else None
    if base is None and version.parent_id is not None:  # an anchor made by a batch: a retrain
        base = session.get_one(Version, version.parent_id)
    anchor = session.get_one(Version, version.anchor_id)
    return {
        "origin": version.origin,
        "guarantee": guarantee,
        "method": version.method,
        "options": version.options,
        "seed": version.seed,
        "code_version": version.code_version,
        "base": None if base is None else report_loaded.name(base),
        "anchor": report_loaded.name(anchor),
        "digest_before": None if base is None else base.digest,
        "digest_after": version.digest,
        "size_bytes": version.size_bytes,
        "mark": version.mark,
        "notes": disclosure.notes(
            {k: v for k, v in version.notes.items() if k != comparisons.NOTE}
        ),
        "timings": version.timings,
        "created_at": version.created_at,
        "published_at": version.published_at,
        "retired_at": version.retired_at,
        "withdrawn_at": version.withdrawn_at,
        "purged_at": version.purged_at,
        "batch": _batch(session, loaded, digester),
        "training_run": _training_run(session, version),
        "never_trained_on": _excluded(session, loaded, anchor, digester),
    }


def _batch(
    session: Session, loaded: report_loaded.Loaded, digester: Digester
) -> dict[str, Any] | None:
    batch = loaded.batch
    if batch is None:
        return None
    wanted = (
        select(Record.record_id)
        .join(BatchRecord, BatchRecord.row == Record.row)
        .where(Record.dataset_id == loaded.dataset.id, BatchRecord.batch_id == batch.id)
    )
    records = _digests(session.scalars(wanted), loaded, digester)
    return {
        "id": batch.id,
        "kind": batch.kind,
        "status": batch.status,
        "attempts": batch.attempts,
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
        # Only training rows of the base: a request may also name rows that it never saw.
        "count": len(records),
        "records": records,
    }


def _training_run(session: Session, version: Version) -> dict[str, Any] | None:
    if version.training_run_id is None:
        return None
    run = session.get_one(TrainingRun, version.training_run_id)
    return {
        "id": run.id,
        "reason": run.reason,
        "seed": run.seed,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }


def _excluded(
    session: Session, loaded: report_loaded.Loaded, anchor: Version, digester: Digester
) -> dict[str, Any]:
    """Return the records forgotten before the anchor was trained."""
    wanted = select(Record.record_id).where(
        exclusions.between(loaded.dataset.id, until=anchor.data_revision)
    )
    records = _digests(session.scalars(wanted), loaded, digester)
    return {
        "data_revision": anchor.data_revision,
        "count": len(records),
        "digest": canonical.digest(records),
    }


def _digests(record_ids: Any, loaded: report_loaded.Loaded, digester: Digester) -> list[str]:
    return sorted(digester.record(loaded.dataset.name, record_id) for record_id in record_ids)
