"""Overwrite raw rows that no model needs any more, and complete the requests that waited for it.

Of a withdrawn dataset all rows are erased, with the array and the identifiers of its records.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from models_store.errors import NotStored
from service.ledger.audit.signing import Signer
from service.ledger.batches import leases
from service.ledger.database import db, locks
from service.ledger.database.locks import Hold
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset
from service.ledger.destruction import removals
from service.ledger.obligations import completion, raw_rows, without_models
from service.ledger.obligations.raw_rows import ToErase
from service.ledger.registry import appends, segments
from service.ledger.registry.segments import Segment
from service.ledger.reports import record_scores
from service.ledger.requests import suppressions
from workers.fault_points import reach
from workers.jobs import arrays, margins, slices, statistics, suppression
from workers.runtime import Runtime


def run_due(runtime: Runtime) -> bool:
    """Erase rows and complete requests; True when a row was erased or a request completed."""
    found = _to_erase(runtime)
    withdrawn = [one.dataset.id for one in found if one.dataset.status == DatasetStatus.WITHDRAWN]
    erased = [_erase(runtime, one) for one in found if one.stands]
    # Requested deletions first, row by row as always, then withdrawn datasets.
    erased += [_remove(runtime, dataset_id) for dataset_id in withdrawn]
    if any(erased) and not withdrawn:
        return True  # the requests that waited for it were completed with it
    with runtime.session() as session:
        settled = completion.settle(session, now=runtime.now(), actor=runtime.actor)
    return any(erased) or bool(settled)


def _erase(runtime: Runtime, found: ToErase) -> bool:
    """Overwrite files first, then update the ledger: a crash in between repeats the overwrite."""
    dataset = found.dataset
    try:
        rows, where = _suppress(runtime, dataset)
        if not rows:
            return False
        arrays.erase(runtime.store.rows, where, rows)
    except NotStored:
        if _is_withdrawn(runtime, dataset.id):
            return False  # the dataset was withdrawn and destroyed meanwhile
        raise
    reach("erase.overwritten")
    if found.has_margins and not margins.forget(runtime, dataset.id, rows):
        return False  # another worker is at them: this is done again at the next look
    if found.has_statistics and not statistics.destroy_outdated(runtime, dataset.id):
        return False
    with runtime.session() as session:
        record_scores.forget(session, dataset.id, rows)
        raw_rows.mark_erased(session, dataset, rows, now=runtime.now(), actor=runtime.actor)
        completion.settle(session, now=runtime.now(), actor=runtime.actor)
    reach("erase.marked")
    return True


def _suppress(runtime: Runtime, dataset: Dataset) -> tuple[list[int], Sequence[Segment]]:
    """Suppress rows while their content can still be read; return those to overwrite, and where.

    The store is read outside a transaction, as others wait for the lock and it may be slow.
    """
    with runtime.session() as session:
        found = suppression.find(db.read_only(session), dataset)
    digests = suppression.digests(runtime.store.rows, found, runtime.digester)
    with runtime.session() as session:
        # A legal hold is placed before or after: afterwards it sees that these rows go.
        locks.dataset(session, dataset.id, Hold.REVISION)
        rows, names = suppressions.about_to_be_erased(session, dataset)
        # Others may have suppressed some meanwhile.
        kept = {row: digest for row, digest in digests.items() if row in names}
        suppressions.keep_rows(session, dataset, kept, now=runtime.now())
    # Rows that can be erased only since then were not read, and lie in segments that were added
    # since: they come with the next look.
    read = [row for row in rows if row in found.names or row not in names]
    return [row for row in read if row < found.end], found.segments


def _remove(runtime: Runtime, dataset_id: int) -> bool:
    """Remove files, then ledger rows in pieces, then write the receipt: each may be repeated."""
    with runtime.lease(f"remove:{dataset_id}") as held:
        if held is None:
            return False
        with runtime.session() as session:
            dataset = session.get_one(Dataset, dataset_id)
            where = segments.of(session, dataset)
            unfinished = appends.unfinished(session, dataset)
        if dataset.ready_at is None:
            slices.remove(runtime, dataset_id, held=held)  # of an ingest that was under way
        else:
            for append_id in unfinished:
                slices.unstage(runtime, append_id, held=held)
            _destroy(runtime, dataset, where, held)
        reach("erase.blanked")
        with runtime.session() as session:
            leases.hold(session, held)
            record_scores.forget(session, dataset_id)
            removals.record(
                session,
                dataset_id,
                receipt=_receipt(runtime, session.get_one(Dataset, dataset_id), where),
                actor=runtime.actor,
                now=runtime.now(),
            )
    return True


def _destroy(
    runtime: Runtime, dataset: Dataset, where: Sequence[Segment], held: leases.Held
) -> None:
    arrays.delete(runtime.store.rows, where)
    reach("erase.destroyed")
    _blank(runtime, dataset.id, held)


def _blank(runtime: Runtime, dataset_id: int, held: leases.Held) -> None:
    marker, first, more = f"{secrets.token_hex(8)}-", 0, True
    while more:
        with runtime.session() as session:
            seconds = runtime.settings.lease_seconds
            leases.renew(session, held, seconds=seconds, now=runtime.now())
            suppressions.keep_owners(
                session,
                session.get_one(Dataset, dataset_id),
                first=first,
                rows=removals.ROWS_AT_ONCE,
                digester=runtime.digester,
            )
            more = removals.blank(
                session, dataset_id, first=first, marker=marker, now=runtime.now()
            )
        first += removals.ROWS_AT_ONCE


def _receipt(runtime: Runtime, dataset: Dataset, where: Sequence[Segment]) -> dict[str, Any]:
    """Return a signed receipt of what was destroyed."""
    return Signer.from_settings(runtime.settings).sign(
        {
            "type": "purge-receipt",
            "dataset": dataset.name,
            "destroyed": [{"kind": "arrays", "digest": key} for one in where for key in one.keys],
            "rows": dataset.rows,
            "withdrawn_at": dataset.withdrawn_at,
            "purged_at": runtime.now(),
        }
    )


def _is_withdrawn(runtime: Runtime, dataset_id: int) -> bool:
    with runtime.session() as session:
        return session.get_one(Dataset, dataset_id).withdrawn_at is not None


def _to_erase(runtime: Runtime) -> list[ToErase]:
    """Return what to erase, after excluding the records of requests that no batch will do."""
    with runtime.session() as session:
        found = raw_rows.to_erase(session, now=runtime.now())
    waiting = [one.dataset.id for one in found if one.waits]
    for dataset_id in waiting:
        with runtime.session() as session:
            without_models.exclude(session, dataset_id, now=runtime.now(), actor=runtime.actor)
    if waiting:
        with runtime.session() as session:
            found = raw_rows.to_erase(session, now=runtime.now())
    return found
