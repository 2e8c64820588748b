"""The records of an ingest or append, in slices: write them, finish it, or remove them.

Each slice is a transaction under the ingest's lease, so that other writers get their turn in
between, and an attempt whose lease was lost or whose dataset was withdrawn writes nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from models_store.protocols import SPLITS
from service.ledger.batches import leases
from service.ledger.database import db
from service.ledger.database.identifiers import Origin
from service.ledger.database.tables import Dataset
from service.ledger.registry import appends, datasets, records
from service.ledger.requests import suppressions
from service.ledger.selection.digests import Digester
from workers.fault_points import reach
from workers.jobs.suppression import SuppressionFilter
from workers.runtime import Runtime
from workers.sources.reading import Ingested

#: Target duration of a slice; most of it holds SQLite's only write lock, for which others wait.
SLICE_SECONDS = 0.4

#: Rows of the first slice, before the speed is known; later ones have no fewer.
FIRST_ROWS = 2_000


class Pace:
    """The size of the next slice: as many rows as take ``SLICE_SECONDS``, within limits."""

    def __init__(self) -> None:
        self.rows = self._least = min(FIRST_ROWS, records.SLICE)

    def took(self, seconds: float) -> None:
        """Adapt to the duration of a slice of ``rows`` rows; the next has at most twice as many."""
        wanted = int(self.rows * min(2.0, SLICE_SECONDS / max(seconds, 1e-9)))
        self.rows = max(self._least, min(records.SLICE, wanted))


def write(runtime: Runtime, dataset_id: int, found: Ingested, *, held: leases.Held) -> None:
    """Write a record for every row that was found; there are none yet."""

    def put(session: Session, rows: Sequence[records.Row], first: int) -> None:
        records.write(session, session.get_one(Dataset, dataset_id), rows, first=first)

    _write(runtime, found, put, held=held)


def stage(runtime: Runtime, append_id: str, found: Ingested, *, held: leases.Held) -> None:
    """Write the records of an append aside; there are none yet."""

    def put(session: Session, rows: Sequence[records.Row], first: int) -> None:
        appends.stage(session, append_id, rows, first=first)

    _write(runtime, found, put, held=held)


def _write(
    runtime: Runtime,
    found: Ingested,
    put: Callable[[Session, Sequence[records.Row], int], None],
    *,
    held: leases.Held,
) -> None:
    free_since, first, pace = time.monotonic(), 0, Pace()
    while first < found.rows:
        runtime.heed_stop()
        rows = _rows(found, first, pace.rows, runtime.digester)
        db.give_way(runtime.engine, since=free_since)
        with _slice(runtime, held, pace) as session:
            put(session, rows, first)
        free_since, first = time.monotonic(), first + len(rows)
        reach("ingest.sliced")


def complete(
    runtime: Runtime,
    dataset_id: int,
    found: Ingested,
    row_filter: SuppressionFilter,
    *,
    held: leases.Held,
) -> bool:
    """Make the dataset ready; False when it holds a subject suppressed meanwhile."""
    with _slice(runtime, held, Pace()) as session:
        dataset = session.get_one(Dataset, dataset_id)
        datasets.complete(session, dataset, _facts(found), actor=runtime.actor, now=runtime.now())
        # As late as possible: requests about a subject wait from here to the commit.
        suppressions.hold(session)
        if row_filter.missed(session, dataset, found.subject_ids):
            session.rollback()
            return False
    return True


def join(
    runtime: Runtime,
    append_id: str,
    found: Ingested,
    notes: Mapping[str, Any],
    row_filter: SuppressionFilter,
    *,
    held: leases.Held,
) -> bool:
    """Let the records of an append join the dataset.

    False when one of their subjects, or of their classes, was asked to be forgotten meanwhile.
    """
    with _slice(runtime, held, Pace()) as session:
        dataset, first = appends.complete(
            session,
            append_id,
            appends.Appended(found.key, _splits(found), notes, found.text_key),
            actor=runtime.actor,
            now=runtime.now(),
        )
        # As late as possible: requests about a subject or a class wait from here to the commit.
        suppressions.hold(session)
        forgotten = appends.forgotten_classes(session, dataset.id)
        missed = not forgotten.isdisjoint(np.unique(found.labels).tolist())
        if missed or row_filter.missed(session, dataset, found.subject_ids, first=first):
            session.rollback()
            return False
    return True


def remove(runtime: Runtime, dataset_id: int, *, held: leases.Held) -> None:
    """Remove the records that an attempt has left, under the lease."""
    _remove(runtime, lambda session, rows: records.remove(session, dataset_id, rows), held=held)


def unstage(runtime: Runtime, append_id: str, *, held: leases.Held) -> None:
    """Remove the records that an attempt of an append has left aside, under the lease."""
    _remove(runtime, lambda session, rows: appends.unstage(session, append_id, rows), held=held)


def _remove(runtime: Runtime, take: Callable[[Session, int], bool], *, held: leases.Held) -> None:
    free_since, more, pace = time.monotonic(), True, Pace()
    while more:
        db.give_way(runtime.engine, since=free_since)
        with _slice(runtime, held, pace) as session:
            more = take(session, pace.rows)
        free_since = time.monotonic()


@contextmanager
def _slice(runtime: Runtime, held: leases.Held, pace: Pace) -> Iterator[Session]:
    """Open a transaction that ends with an error if the lease is lost."""
    with runtime.session() as session:
        seconds = runtime.settings.lease_seconds
        leases.renew(session, held, seconds=seconds, now=runtime.now())
        # Timed from here on: before it may have waited for another writer.
        began = time.monotonic()
        yield session
    pace.took(time.monotonic() - began)


def _rows(found: Ingested, first: int, count: int, digester: Digester) -> Sequence[records.Row]:
    """Return the rows of a slice; subject ids become digests here and are kept nowhere else."""
    here = slice(first, first + count)
    names = found.record_ids[here]
    subjects = [None] * len(names) if found.subject_ids is None else found.subject_ids[here]
    return [
        records.Row(
            record_id=name,
            subject_digest=None if subject is None else digester.subject(subject),
            label=label,
            split=split,
        )
        for name, subject, label, split in zip(
            names, subjects, found.labels[here].tolist(), found.splits[here].tolist(), strict=True
        )
    ]


def _splits(found: Ingested) -> dict[str, int]:
    counts = np.bincount(found.splits, minlength=len(SPLITS)).tolist()
    return dict(zip(SPLITS, counts, strict=True))


def _facts(found: Ingested) -> datasets.Ingested:
    return datasets.Ingested(
        array_key=found.key,
        text_key=found.text_key,
        splits=_splits(found),
        shape=found.shape,
        dtype=found.dtype,
        classes=found.classes,
        record_id_origin=found.record_id_origin,
        subject_id_origin=Origin.ABSENT if found.subject_ids is None else Origin.SOURCE,
        id_case=found.id_case,
        input=found.input,
        report=found.report,
    )
