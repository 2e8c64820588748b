"""Find completed deletions that do not hold any more, and open them again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from models_store.protocols import Rows
from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset, Record
from service.ledger.reconciliation import reconciler
from service.ledger.reconciliation.findings import Finding
from service.ledger.registry import segments
from service.ledger.registry.segments import Segment
from workers.jobs import arrays
from workers.runtime import Runtime

log = logging.getLogger(__name__)

LEASE = "reconcile"


def run_due(runtime: Runtime) -> bool:
    """Check what changed, and the next part of everything; True if something was repaired.

    Changes are checked at once after a promotion and otherwise each minute, everything once a day.
    """
    with runtime.session() as session:
        if not reconciler.is_due(db.read_only(session), now=runtime.now()):
            return False
    with runtime.lease(LEASE) as held:
        return held is not None and _look(runtime, held)


def _look(runtime: Runtime, held: leases.Held) -> bool:
    repaired = False
    while not runtime.stop.is_set():
        with runtime.session() as session:
            changes = reconciler.changes(db.read_only(session))
            broken = reconciler.broken_by(session, changes)
        if broken:
            repaired |= _repair(runtime, held, broken)
        with runtime.session() as session:
            leases.renew(session, held, seconds=runtime.settings.lease_seconds, now=runtime.now())
            reconciler.looked(session, changes.until, now=runtime.now())
        if changes.lines < reconciler.LINES_AT_ONCE:
            break
    return _prove_more(runtime, held) or repaired


def _prove_more(runtime: Runtime, held: leases.Held) -> bool:
    """Do one step of the full check; the lane does other due work between two steps."""
    with runtime.session() as session:
        step = reconciler.prove_more(db.read_only(session), now=runtime.now())
    if step is None:
        return False
    repaired = bool(step.broken) and _repair(runtime, held, step.broken)
    with runtime.session() as session:
        leases.renew(session, held, seconds=runtime.settings.lease_seconds, now=runtime.now())
        reconciler.proven(session, step, now=runtime.now())
    return repaired


def _repair(runtime: Runtime, held: leases.Held, broken: Iterable[Finding]) -> bool:
    with runtime.session() as session:
        leases.hold(session, held)
        repaired = reconciler.repair(session, broken, actor=runtime.actor, now=runtime.now())
    for one in repaired:
        log.error("not forgotten, and opened again: %s", one.to_json())
    return bool(repaired)


def rows_in_files(session: Session, stored: Rows) -> dict[str, list[int]]:
    """Return by dataset the rows that count as erased but are still readable in their array.

    Raise a ``StoreError`` for a dataset whose array is not in the store.
    """
    found: dict[str, list[int]] = {}
    ready = select(Dataset).where(Dataset.status == DatasetStatus.READY).order_by(Dataset.id)
    for dataset in session.scalars(ready).all():
        erased = select(Record.row).where(
            Record.dataset_id == dataset.id, Record.erased_at.is_not(None)
        )
        rows = set(session.scalars(erased))
        if rows:
            rows -= set(arrays.erased(stored, segments.of(session, dataset)))
        if rows:
            found[dataset.name] = sorted(rows)
    return found


def erase(
    stored: Rows, rows: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[Segment]]
) -> None:
    """Erase these rows again: their file was restored, or the first erasure never reached the disk.

    ``found`` are the datasets' segments. Call it outside of a transaction: a store may keep its
    own keys in the same database.
    """
    for name, its in rows.items():
        if its and name in found:
            arrays.erase(stored, found[name], its)


def segments_of_all(session: Session) -> dict[str, Sequence[Segment]]:
    """Return the segments in the store, by dataset."""
    found = session.scalars(select(Dataset).where(Dataset.array_key.is_not(None))).all()
    return {dataset.name: segments.of(session, dataset) for dataset in found}
