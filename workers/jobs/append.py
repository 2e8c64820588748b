"""Append: store the rows of a further source of a dataset, and let their records join it.

The dataset is as it was until the last transaction of an attempt. Records left aside by an
interrupted attempt are removed before the next one begins.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models_store.errors import BucketUnavailable, StoreError
from service.errors import Unprocessable
from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.states import AppendStatus
from service.ledger.database.tables import Dataset, DatasetAppend
from service.ledger.registry import appends, datasets, segments
from service.messages.failures import text_of
from workers.compute.process import Stopping
from workers.fault_points import reach
from workers.jobs import ingest, slices
from workers.jobs.suppression import SuppressionFilter
from workers.readers import Chunk, Columns, ReadError
from workers.runtime import Runtime
from workers.sources import encoding, reading
from workers.sources.fit import Fit
from workers.sources.layouts import Layout
from workers.sources.reading import Ingested, NothingLeft, Progress

log = logging.getLogger(__name__)


def run_due(runtime: Runtime) -> bool:
    """Make every waiting append, those of a dataset in turn; True when one was made or refused."""
    with runtime.session() as session:
        waiting = [(one.id, one.dataset_id) for one in appends.waiting(session)]
    done = False
    for append_id, dataset_id in waiting:
        with runtime.lease(ingest.lease_key(dataset_id)) as held:
            if held is None or runtime.stop.is_set():
                continue
            done = True
            append(runtime, append_id, None, held=held)
    return done


def append(
    runtime: Runtime,
    append_id: str,
    path: Path | None,
    *,
    held: leases.Held,
    progress: Progress | None = None,
) -> str | None:
    """Make one append under the dataset's lease; return why it was refused, or None.

    ``path`` is read, or without it what the append's source names.
    """
    with runtime.session() as session:
        found = session.get_one(DatasetAppend, append_id)
        if found.status != AppendStatus.WAITING:
            return "it is not waiting any more"  # made, or the dataset withdrawn, since
        existing, stated = found.existing, dict(found.source)
        dataset = session.get_one(Dataset, found.dataset_id)
    watch = ingest.Watch(
        runtime, held, lambda session, done: appends.progress(session, append_id, done), progress
    )
    try:
        slices.unstage(runtime, append_id, held=held)  # of an interrupted attempt
        with ingest.at_hand(runtime, path, stated, watch=watch) as here:
            while not _attempt(runtime, append_id, dataset, here, stated, existing, held, watch):
                slices.unstage(runtime, append_id, held=held)
    except (leases.LeaseLost, Stopping):
        return "stopped; the append is still waiting"
    except BucketUnavailable as error:
        slices.unstage(runtime, append_id, held=held)
        raise runtime.store_away(str(error)) from error
    except (ReadError, StoreError, OSError, Unprocessable) as error:
        if isinstance(error, OSError):
            log.warning("a source could not be read", exc_info=error)
        slices.unstage(runtime, append_id, held=held)
        with runtime.session() as session:
            leases.hold(session, held)
            appends.fail(
                session, append_id, error=text_of(error), actor=runtime.actor, now=runtime.now()
            )
        return text_of(error)
    return None


def _attempt(
    runtime: Runtime,
    append_id: str,
    dataset: Dataset,
    path: Path,
    stated: Mapping[str, Any],
    existing: str,
    held: leases.Held,
    watch: Progress,
) -> bool:
    """Store rows and let their records join; False when some were suppressed meanwhile."""
    newcomers = Newcomers(runtime, dataset)
    found = read(
        runtime,
        dataset,
        path,
        stated,
        newcomers,
        existing=existing,
        key=append_id,
        held=held,
        progress=watch,
    )
    if found is None:
        with runtime.session() as session:
            leases.hold(session, held)
            nothing = appends.Appended(None, {}, newcomers.notes)
            appends.complete(session, append_id, nothing, actor=runtime.actor, now=runtime.now())
        return True
    done = False
    notes = {**found.report.notes, **newcomers.notes}
    try:
        reach("append.stored")
        slices.stage(runtime, append_id, found, held=held)
        reach("append.staged")
        done = slices.join(runtime, append_id, found, notes, newcomers.row_filter, held=held)
    except (leases.LeaseLost, Stopping):
        ingest.drop_withdrawn(runtime, dataset.id, found)
        raise
    except (StoreError, OSError, Unprocessable):  # refused once its rows were in the store
        ingest.drop(runtime, found, held=held)
        raise
    if not done:
        ingest.drop(runtime, found, held=held)
    return done


class Newcomers:
    """Marks the rows of a source that do not join the dataset, and counts them by reason.

    They are suppressed, or of a class that was asked to be forgotten, or there already.
    """

    def __init__(self, runtime: Runtime, dataset: Dataset) -> None:
        self._runtime, self._dataset_id = runtime, dataset.id
        self.row_filter: SuppressionFilter = ingest.filter_of(runtime, dataset.source)
        with runtime.session() as session:
            forgotten = appends.forgotten_classes(db.read_only(session), dataset.id)
        self._forgotten = sorted(forgotten)
        self.read = self.suppressed = self.of_forgotten_classes = self.existing = 0

    def __call__(self, chunk: Chunk, layout: Layout | None) -> npt.NDArray[np.bool_]:
        """Return which rows of the next chunk are left out, (k,) bool."""
        suppressed = self.row_filter(chunk, layout)
        forgotten = np.isin(chunk.labels, self._forgotten) & ~suppressed
        existing = self._known(chunk) & ~suppressed & ~forgotten
        self.read += len(chunk)
        self.suppressed += int(suppressed.sum())
        self.of_forgotten_classes += int(forgotten.sum())
        self.existing += int(existing.sum())
        left_out: npt.NDArray[np.bool_] = suppressed | forgotten | existing
        return left_out

    @property
    def notes(self) -> dict[str, int]:
        """Return the counts."""
        return {
            "read": self.read,
            "suppressed": self.suppressed,
            "of_forgotten_classes": self.of_forgotten_classes,
            "existing": self.existing,
        }

    def _known(self, chunk: Chunk) -> npt.NDArray[np.bool_]:
        """Return which rows have record ids of the dataset, in the present or an earlier form."""
        forms = [form for form in (chunk.record_ids, chunk.record_ids_before) if form]
        wanted = {one for form in forms for one in form}
        with self._runtime.session() as session:
            known = appends.known(db.read_only(session), self._dataset_id, wanted)
        found = np.zeros(len(chunk), np.bool_)
        for form in forms:
            found |= np.array([one in known for one in form], np.bool_)
        return found


def read(
    runtime: Runtime,
    dataset: Dataset,
    path: Path,
    stated: Mapping[str, Any],
    newcomers: Newcomers,
    *,
    existing: str,
    key: str | None = None,
    held: leases.Held | None = None,
    progress: Progress | None,
) -> Ingested | None:
    """Read a source as the dataset's own was read.

    Its rows are stored if ``key``, the id of an append, and ``held``, its lease, are given.

    Return None if all of its rows are there already and are skipped. Raise ``ReadError`` if it does
    not fit the dataset, or has rows of it that are not to be skipped.
    """
    fit, options = _options(runtime, dataset, stated, held)
    try:
        found = reading.read_into_store(
            path,
            rows=None if key is None else runtime.store.rows,
            name=segments.name(dataset.name, key),
            leave_out=newcomers,
            progress=progress,
            fit=fit,
            **options,
        )
    except NothingLeft:
        if newcomers.existing and existing != "skip":
            raise _refused(newcomers, dataset) from None
        return None
    if newcomers.existing and existing != "skip":
        if held is not None:
            ingest.drop(runtime, found, held=held)
        raise _refused(newcomers, dataset)
    return found


def _options(
    runtime: Runtime, dataset: Dataset, stated: Mapping[str, Any], held: leases.Held | None
) -> tuple[Fit, dict[str, Any]]:
    """Return what the source must fit, and the arguments of ``read_into_store``."""
    with runtime.session() as session:
        report = datasets.report(db.read_only(session), dataset) or datasets.Report()
    fit = Fit(
        columns=report.columns,
        class_names=report.class_names,
        shape=tuple(dataset.shape or ()),
        dtype=np.dtype(dataset.dtype),
        encoding=encoding.of(dataset.input),
    )
    own = {name: value for name, value in stated.items() if value is not None}
    options = ingest.asked(runtime, {**dataset.source, "format": None, **own}, held=held)
    options["columns"] = fit.declared(options.get("columns", Columns()))
    options["table"] = fit.typed(options.get("table"))
    options["class_names"] = report.class_names
    options["classes"] = dataset.classes
    options["seed"] = [options.get("seed", 0), dataset.rows or 0]
    return fit, options


def _refused(newcomers: Newcomers, dataset: Dataset) -> ReadError:
    return ReadError(
        f"{newcomers.existing} of {newcomers.read} rows have record ids that dataset "
        f"{dataset.name} has already; leave them out, or append with existing=skip, which keeps "
        "the rows that the dataset has"
    )
