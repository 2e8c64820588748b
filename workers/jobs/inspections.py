"""Inspections, the dry runs of an ingest or append: read a source, report on it, store nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models_store.protocols import SPLITS
from service.errors import ServiceError
from service.ledger.batches import leases
from service.ledger.database.identifiers import Origin
from service.ledger.database.tables import Dataset
from service.ledger.registry import datasets, inspections
from service.messages.failures import text_of
from workers.compute.process import Stopping
from workers.jobs import append, ingest
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
        watch = ingest.Watch(runtime, held)
        with ingest.at_hand(runtime, None, source, watch=watch) as path:
            if "append_to" in source:
                shown = _of_append(runtime, path, source, watch)
            else:
                shown = describe(
                    reading.inspect(
                        path,
                        leave_out=ingest.filter_of(runtime, source),
                        progress=watch,
                        **ingest.asked(runtime, source, held=held),
                    )
                )
    except (leases.LeaseLost, Stopping):
        return  # the inspection keeps waiting
    except (ReadError, OSError, ServiceError) as error:
        with runtime.session() as session:
            inspections.refuse(session, inspection_id, text_of(error))
        return
    with runtime.session() as session:
        inspections.finish(session, inspection_id, shown)


def _of_append(
    runtime: Runtime, path: Path, source: Mapping[str, Any], watch: reading.Progress
) -> dict[str, Any]:
    with runtime.session() as session:
        dataset = datasets.get_ready(session, source["append_to"])
    stated = {name: one for name, one in source.items() if name not in ("append_to", "existing")}
    return describe_append(
        runtime, dataset, path, stated, existing=source["existing"], progress=watch
    )


def describe_append(
    runtime: Runtime,
    dataset: Dataset,
    path: Path,
    stated: Mapping[str, Any],
    *,
    existing: str,
    progress: reading.Progress,
) -> dict[str, Any]:
    """Return what would join the dataset, in its public form; raise ``ReadError`` if refused."""
    newcomers = append.Newcomers(runtime, dataset)
    found = append.read(
        runtime, dataset, path, stated, newcomers, existing=existing, progress=progress
    )
    if found is not None:
        shown = describe(found)
        return {**shown, "notes": shown["notes"] | newcomers.notes}
    return {
        **{name: getattr(dataset, name) for name in ("shape", "dtype", "classes")},
        "rows": 0,
        "splits": dict.fromkeys(SPLITS, 0),
        **datasets.describe_report(
            datasets.Report(notes=newcomers.notes),
            record_id=dataset.record_id_origin,
            subject_id=dataset.subject_id_origin,
            id_case=dataset.id_case,
            input=dataset.input,
        ),
    }


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
