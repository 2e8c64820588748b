"""Inspections, the dry runs of an ingest: read a source, report on it, store nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from models_store.protocols import SPLITS
from service.ledger.batches import leases
from service.ledger.database.identifiers import Origin
from service.ledger.registry import datasets, inspections
from workers.compute.process import Stopping
from workers.jobs import ingest
from workers.readers import ReadError
from workers.runtime import Runtime
from workers.sources import reading

#: Lease under which one worker at a time makes inspections.
LEASE = "inspections"


def run_due(runtime: Runtime) -> bool:
    """Make every waiting inspection; True when there were any."""
    with runtime.session() as session:
        waiting = [(one.id, one.source) for one in inspections.waiting(session)]
    if not waiting:
        return False
    with runtime.lease(LEASE) as held:
        if held is None:
            return False
        for inspection_id, source in waiting:
            if runtime.stop.is_set():
                break
            inspect(runtime, inspection_id, source, held=held)
    return True


def inspect(
    runtime: Runtime, inspection_id: str, source: Mapping[str, Any], *, held: leases.Held
) -> None:
    """Make one inspection under the lease."""
    try:
        path = ingest.located(runtime, source["path"])
        if path is None:
            raise ReadError("the source no longer lies under the data root; ask again")
        found = reading.inspect(
            path,
            leave_out=ingest.sieve_of(runtime, source),
            progress=_Watch(runtime, held),
            **ingest.asked(source),
        )
    except (leases.LeaseLost, Stopping):
        return  # the inspection keeps waiting
    except (ReadError, OSError) as error:
        with runtime.session() as session:
            inspections.refuse(session, inspection_id, str(error))
        return
    with runtime.session() as session:
        inspections.finish(session, inspection_id, describe(found))


def describe(found: reading.Ingested) -> dict[str, Any]:
    """Return what was found, in its public form."""
    counts = np.bincount(found.splits, minlength=len(SPLITS)).tolist()
    return {
        "rows": found.rows,
        "shape": list(found.shape),
        "dtype": found.dtype,
        "classes": found.classes,
        "splits": dict(zip(SPLITS, counts, strict=True)),
        **datasets.describe_report(
            found.report,
            record_id=found.record_id_origin,
            subject_id=Origin.ABSENT if found.subject_ids is None else Origin.SOURCE,
            id_case=found.id_case,
            input=found.input,
        ),
    }


class _Watch:
    """Keeps the lease while a file is read; raises when the worker stops."""

    def __init__(self, runtime: Runtime, held: leases.Held) -> None:
        self._runtime, self._held = runtime, held
        self._told = time.monotonic()

    def __call__(self, done: int, expected: int) -> None:
        if time.monotonic() - self._told < ingest.WATCH_SECONDS:
            return
        self._told = time.monotonic()
        self._runtime.heed_stop()
        with self._runtime.session() as session:
            leases.renew(
                session,
                self._held,
                seconds=self._runtime.settings.lease_seconds,
                now=self._runtime.now(),
            )
