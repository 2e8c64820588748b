"""Ingest: store the rows of a file as an array, and a record per row in the ledger.

An attempt writes its records slice by slice. Records left by an interrupted attempt are removed
before the next one begins, and before the dataset ends in any other way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from models_store.errors import BucketUnavailable, StoreError
from models_store.protocols import SPLITS
from service.errors import Unprocessable
from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.identifiers import Case
from service.ledger.database.states import DatasetStatus
from service.ledger.database.tables import Dataset
from service.ledger.registry import datasets, segments
from service.ledger.requests import suppressions
from service.messages.failures import text_of
from workers.compute.process import Stopping
from workers.fault_points import reach
from workers.jobs import features, slices, suppression, tokenizers
from workers.jobs.suppression import SuppressionFilter
from workers.readers import Columns, ReadError, Table
from workers.runtime import Runtime
from workers.sources import fetching, reading
from workers.sources.reading import Ingested, Progress

log = logging.getLogger(__name__)

#: Seconds between two checks of the lease and the stop sign while a file is read.
WATCH_SECONDS = 1.0


def run_due(runtime: Runtime) -> bool:
    """Ingest every waiting dataset; True when one was ingested or refused."""
    with runtime.session() as session:
        waiting = [dataset.id for dataset in datasets.waiting(session)]
    done = False
    for dataset_id in waiting:
        with runtime.lease(lease_key(dataset_id)) as held:
            if held is None or runtime.stop.is_set():
                continue
            done = True
            ingest(runtime, dataset_id, None, held=held)
    return done


def lease_key(dataset_id: int) -> str:
    """Return the key of the lease under which a dataset is ingested."""
    return leases.of_ingest(dataset_id)


def ingest(
    runtime: Runtime,
    dataset_id: int,
    path: Path | None,
    *,
    held: leases.Held,
    progress: Progress | None = None,
) -> str | None:
    """Ingest one dataset under its lease; return why it was refused, or None when it is ready.

    ``path`` is read, or without it what the dataset's source names.
    """
    with runtime.session() as session:
        dataset = session.get_one(Dataset, dataset_id)
        if dataset.status != DatasetStatus.INGESTING:
            return "it is not waiting any more"  # ingested or withdrawn since it was listed
        source, name = dataset.source, dataset.name
    try:
        return _tried(runtime, dataset_id, path, name, source, held=held, progress=progress)
    except (leases.LeaseLost, Stopping):
        return "stopped; the dataset is still waiting"


def _tried(
    runtime: Runtime,
    dataset_id: int,
    path: Path | None,
    name: str,
    source: Mapping[str, Any],
    *,
    held: leases.Held,
    progress: Progress | None,
) -> str | None:
    """Return why the source was refused, or None; on ``LeaseLost`` or ``Stopping`` it waits on."""
    watch = Watch(
        runtime, held, lambda session, done: datasets.progress(session, dataset_id, done), progress
    )
    try:
        slices.remove(runtime, dataset_id, held=held)  # of an interrupted attempt
        with at_hand(runtime, path, source, watch=watch) as here:
            while not _attempt(runtime, dataset_id, here, name, source, held=held, watch=watch):
                slices.remove(runtime, dataset_id, held=held)
    except BucketUnavailable as error:
        slices.remove(runtime, dataset_id, held=held)
        raise runtime.store_away(str(error)) from error
    except (ReadError, StoreError, OSError, Unprocessable) as error:
        if isinstance(error, OSError):
            log.warning("a source could not be read", exc_info=error)
        slices.remove(runtime, dataset_id, held=held)
        with runtime.session() as session:
            leases.hold(session, held)
            dataset = session.get_one(Dataset, dataset_id)
            datasets.fail(
                session, dataset, error=text_of(error), actor=runtime.actor, now=runtime.now()
            )
        return text_of(error)
    return None


def _attempt(
    runtime: Runtime,
    dataset_id: int,
    path: Path,
    name: str,
    source: Mapping[str, Any],
    *,
    held: leases.Held,
    watch: Progress,
) -> bool:
    """Store rows and write their records; False when a row was suppressed meanwhile."""
    row_filter = filter_of(runtime, source)
    found = reading.read_into_store(
        path,
        rows=runtime.store.rows,
        name=segments.name(name, None),
        leave_out=row_filter,
        progress=watch,
        **asked(runtime, source, held=held),
    )
    done = False
    try:
        reach("ingest.stored")
        slices.write(runtime, dataset_id, found, held=held)
        done = slices.complete(runtime, dataset_id, found, row_filter, held=held)
    except (leases.LeaseLost, Stopping):
        drop_withdrawn(runtime, dataset_id, found)
        raise
    except (StoreError, OSError, Unprocessable):  # refused once its rows were in the store
        drop(runtime, found, held=held)
        raise
    if not done:
        drop(runtime, found, held=held)
    return done


def filter_of(runtime: Runtime, source: Mapping[str, Any]) -> SuppressionFilter:
    """Return what keeps suppressed rows and subjects out of a source."""
    with runtime.session() as session:
        newest = suppressions.newest(session)
    suppressed = suppression.load(runtime, newest=newest)
    with runtime.session() as session:
        known = suppression.layouts_of(db.read_only(session))
    fold_case = source.get("id_case") == Case.IGNORED
    return SuppressionFilter(runtime.digester, suppressed, known, fold_case=fold_case)


def drop(runtime: Runtime, found: Ingested, *, held: leases.Held) -> None:
    """Destroy rows that were stored in vain.

    Raise ``LeaseLost`` if the lease has a new holder: the same source gives it the same array.
    """
    with runtime.session() as session:
        leases.renew(session, held, seconds=runtime.settings.lease_seconds, now=runtime.now())
    _delete(runtime, found)


def drop_withdrawn(runtime: Runtime, dataset_id: int, found: Ingested) -> None:
    """Destroy what was stored for a dataset that was withdrawn while it was read."""
    with runtime.session() as session:
        withdrawn = session.get_one(Dataset, dataset_id).withdrawn_at is not None
    if withdrawn:
        _delete(runtime, found)


def _delete(runtime: Runtime, found: Ingested) -> None:
    for key in found.keys:
        runtime.store.rows.delete(key)


class Watch:
    """Shows progress and keeps the lease while a file is read; raises when the worker stops.

    ``store`` stores a fraction, 0 to 1; ``progress`` is also told.
    """

    def __init__(
        self,
        runtime: Runtime,
        held: leases.Held,
        store: Callable[[Session, float], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._runtime, self._held = runtime, held
        self._store, self._progress = store, progress
        self._told = 0.0

    def __call__(self, done: int, expected: int) -> None:
        """Take how many rows of how many were read."""
        if self._progress is not None:
            self._progress(done, expected)
        if time.monotonic() - self._told < WATCH_SECONDS:
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
            if self._store is not None:
                self._store(session, done / max(expected, 1))


def remove_fetched(runtime: Runtime) -> None:
    """Remove rows of buckets that a killed worker fetched: they may be of forgotten people."""
    fetching.remove_left(runtime.settings.fetched)


def at_hand(
    runtime: Runtime, path: Path | None, source: Mapping[str, Any], *, watch: Progress
) -> AbstractContextManager[Path]:
    """Give ``path``, or without it what the source names, for as long as it is read."""
    if path is not None:
        return nullcontext(path)
    return fetching.at_hand(runtime.settings, source["path"], watch=watch)


def asked(
    runtime: Runtime,
    source: Mapping[str, Any],
    *,
    held: leases.Held | None = None,
    files: Mapping[str, bytes] | None = None,
) -> dict[str, Any]:
    """Return the client's source options as arguments of ``read_into_store``.

    ``held`` is the lease that is renewed while rows are computed, if there is one. ``files`` are
    those that the options of the kind of input name; left out: from the store.
    Raise ``ReadError`` if one cannot be loaded from there.
    """
    found: dict[str, Any] = {
        key: source[key] for key in ("format", "classes", "seed") if source.get(key) is not None
    }
    if source.get("columns"):
        given = {part: column for part, column in source["columns"].items() if column is not None}
        found["columns"] = Columns(**given)
    if source.get("id_case"):
        found["id_case"] = Case(source["id_case"])
    if source.get("input"):
        given = source["input"]
        if (made := features.of_input(runtime, given, held=held)) is not None:
            found |= made
        else:
            own = tokenizers.of_input(runtime, given) if files is None else files
            found |= {"input": given, "files": own}
    if source.get("table") is not None:
        found["table"] = Table(**source["table"])
    if source.get("resize"):
        found["resize"] = tuple(source["resize"])
    if source.get("keep_text"):
        found["text_bytes"] = source["text_bytes"]
    if source.get("fractions"):
        found["fractions"] = tuple(source["fractions"][split] for split in SPLITS)
    return found
