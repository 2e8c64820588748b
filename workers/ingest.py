"""From a file to a dataset: rows into the array store, a record per row into the ledger."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models_store import arrays
from models_store.errors import StoreError
from service.errors import Unprocessable
from service.ledger import datasets, db, identifiers, leases, suppressions
from service.ledger.digests import Digester
from service.ledger.identifiers import Case, Origin
from service.ledger.states import DatasetStatus
from service.ledger.tables import Dataset
from workers import readers, source_report, suppression
from workers.compute.process import Stopping
from workers.fault_points import reach
from workers.readers import Columns, ReadError
from workers.runtime import Runtime
from workers.suppression import Sieve
from workers.texts import Texts

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)

#: Seconds between two looks at the lease and the stop sign while a file is read.
WATCH_SECONDS = 1.0

Progress = Callable[[int, int], None]

#: Which rows (k,) of a chunk are not to be kept.
LeaveOut = Callable[[readers.Chunk], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Ingested:
    """A stored array and what the database has to know of every row, in the array's order.

    ``subject_ids`` are the plain identities: digest them and let go of them; they are left out of
    ``repr``, so that they cannot slip into a log.
    """

    key: str
    rows: int
    shape: tuple[int, ...]
    dtype: str
    classes: int
    size_bytes: int
    format: str
    record_id_origin: Origin
    id_case: Case | None
    record_ids: Sequence[str] = field(repr=False)
    subject_ids: Sequence[str] | None = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    splits: npt.NDArray[np.uint8] = field(repr=False)
    report: datasets.Report = field(repr=False)


def run_due(runtime: Runtime) -> bool:
    """Ingest every dataset that waits; True when one was ingested or refused."""
    with runtime.session() as session:
        waiting = [(dataset.id, dataset.source) for dataset in datasets.waiting(session)]
    done = False
    for dataset_id, source in waiting:
        with runtime.lease(lease_key(dataset_id)) as held:
            if held is None or runtime.stop.is_set():
                continue
            done = True
            ingest(runtime, dataset_id, located(runtime, source["path"]), held=held)
    return done


def lease_key(dataset_id: int) -> str:
    """Key of the lease under which a dataset is ingested."""
    return leases.of_ingest(dataset_id)


def ingest(
    runtime: Runtime,
    dataset_id: int,
    path: Path | None,
    *,
    held: leases.Held,
    progress: Progress | None = None,
) -> str | None:
    """Ingest one dataset under its lease; why it was refused, or None when it is ready."""
    with runtime.session() as session:
        dataset = session.get_one(Dataset, dataset_id)
        if dataset.status != DatasetStatus.INGESTING:
            return "it is not waiting any more"  # done, or withdrawn, since it was listed
        source, name = dataset.source, dataset.name
    watch = _Watch(runtime, dataset_id, held, progress)
    found: Ingested | None = None
    try:
        if path is None:
            raise ReadError("the source no longer lies under the data root; add the dataset again")
        while True:
            sieve = sieve_of(runtime, source)
            found = read_into_store(
                path,
                root=runtime.store,
                name=name,
                leave_out=sieve,
                progress=watch,
                **asked(source),
            )
            reach("ingest.stored")
            if _complete(runtime, dataset_id, found, sieve, held=held):
                break
            arrays.destroy(runtime.store, found.key)
            found = None
    except (leases.LeaseLost, Stopping):
        if found is not None:
            _drop_withdrawn(runtime, dataset_id, found.key)
        return "stopped; the dataset is still waiting"
    except (ReadError, StoreError, OSError, Unprocessable) as error:
        if found is not None:  # refused by the ledger once its rows were in the store
            arrays.destroy(runtime.store, found.key)
        with runtime.session() as session:
            leases.hold(session, held)
            dataset = session.get_one(Dataset, dataset_id)
            datasets.fail(
                session, dataset, error=str(error), actor=runtime.actor, now=runtime.now()
            )
        return str(error)
    return None


def sieve_of(runtime: Runtime, source: Mapping[str, Any]) -> Sieve:
    """What keeps the rows of whoever was forgotten until now out of a source."""
    with runtime.session() as session:
        suppressed = suppression.load(session, runtime.store, runtime.digester)
    fold_case = source.get("id_case") == Case.IGNORED
    return Sieve(runtime.digester, suppressed, fold_case=fold_case)


def _complete(
    runtime: Runtime, dataset_id: int, found: Ingested, sieve: Sieve, *, held: leases.Held
) -> bool:
    """Make the dataset ready; False when it holds somebody who was forgotten meanwhile."""
    with runtime.session() as session:
        db.take_time(session.connection(), runtime.settings.database_bulk_seconds)
        leases.hold(session, held)
        dataset = session.get_one(Dataset, dataset_id)
        datasets.complete(
            session,
            dataset,
            _facts(found),
            _rows(found, runtime.digester),
            actor=runtime.actor,
            now=runtime.now(),
        )
        # Last, because requests about a subject wait from here to the commit.
        suppressions.hold(session)
        late = suppressions.in_force(session, after=sieve.suppressed.newest)
        if replace(sieve, suppressed=late).meets(found.subject_ids or ()):
            session.rollback()
            return False
    return True


def _drop_withdrawn(runtime: Runtime, dataset_id: int, key: str) -> None:
    """Destroy what was stored for a dataset that was withdrawn while it was being read."""
    with runtime.session() as session:
        withdrawn = session.get_one(Dataset, dataset_id).withdrawn_at is not None
    if withdrawn:
        arrays.destroy(runtime.store, key)


class _Watch:
    """Shows progress and keeps the lease while a file is read; stops when the worker stops."""

    def __init__(
        self, runtime: Runtime, dataset_id: int, held: leases.Held, progress: Progress | None
    ) -> None:
        self._runtime, self._dataset_id, self._held = runtime, dataset_id, held
        self._progress = progress
        self._told = 0.0

    def __call__(self, done: int, expected: int) -> None:
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
            datasets.progress(session, self._dataset_id, done / max(expected, 1))


def located(runtime: Runtime, path: str) -> Path | None:
    """The source's file, if it really lies under the data root."""
    root = runtime.settings.sources.resolve()
    found = (root / path).resolve()
    return found if found.is_relative_to(root) else None


def asked(source: Mapping[str, Any]) -> dict[str, Any]:
    """What a client said of the source, as arguments of ``read_into_store``."""
    found: dict[str, Any] = {
        key: source[key] for key in ("format", "classes", "seed") if source.get(key) is not None
    }
    if source.get("columns"):
        given = {part: column for part, column in source["columns"].items() if column is not None}
        found["columns"] = Columns(**given)
    if source.get("id_case"):
        found["id_case"] = Case(source["id_case"])
    if source.get("resize"):
        found["resize"] = tuple(source["resize"])
    if source.get("fractions"):
        found["fractions"] = tuple(source["fractions"][split] for split in arrays.SPLITS)
    return found


def _facts(found: Ingested) -> datasets.Ingested:
    return datasets.Ingested(
        array_key=found.key,
        shape=found.shape,
        dtype=found.dtype,
        classes=found.classes,
        record_id_origin=found.record_id_origin,
        subject_id_origin=Origin.ABSENT if found.subject_ids is None else Origin.SOURCE,
        id_case=found.id_case,
        report=found.report,
    )


def _rows(found: Ingested, digester: Digester) -> Iterator[datasets.Row]:
    """Rows for the ledger; this is where subject ids become digests and end."""
    subjects = repeat(None) if found.subject_ids is None else found.subject_ids
    for record_id, subject, label, split in zip(
        found.record_ids, subjects, found.labels, found.splits, strict=False
    ):
        yield datasets.Row(
            record_id=record_id,
            subject_digest=None if subject is None else digester.subject(subject),
            label=int(label),
            split=int(split),
        )


def read_into_store(
    source_path: Path,
    *,
    root: Path,
    name: str,
    format: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen, so one default can be shared
    classes: int | None = None,
    resize: tuple[int, int] | None = None,
    id_case: Case | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    leave_out: LeaveOut | None = None,
    progress: Progress | None = None,
) -> Ingested:
    """Read and check a file and write its array under ``root``; on any error nothing is left.

    ``leave_out`` is asked for every chunk which of its rows (k,) are not to be kept; they are
    counted in the report as suppressed.
    Without a split column, ``fractions`` of train, validation and audit rows are drawn with
    ``seed``, the same share of every class. Without a record id column ids are generated from the
    row's position in the file. ``progress(done, expected)`` is called after every chunk.
    Raises ``ReadError``, or a ``StoreError`` of the models store.
    """
    return _read(
        source_path,
        lambda first: arrays.writer(root, name=name, dtype=first.x.dtype, shape=first.x.shape[1:]),
        format=format,
        columns=columns,
        classes=classes,
        resize=resize,
        id_case=id_case,
        seed=seed,
        fractions=fractions,
        leave_out=leave_out,
        progress=progress,
    )


def inspect(source_path: Path, **options: Any) -> Ingested:
    """Read and check a file as ``read_into_store`` does and store nothing; the key is empty."""
    return _read(source_path, lambda _: contextlib.nullcontext(_Nowhere()), **options)


def _read(
    source_path: Path,
    writer_for: Callable[[readers.Chunk], contextlib.AbstractContextManager[arrays.Writer]],
    *,
    format: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen, so one default can be shared
    classes: int | None = None,
    resize: tuple[int, int] | None = None,
    id_case: Case | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    leave_out: LeaveOut | None = None,
    progress: Progress | None = None,
) -> Ingested:
    _check_fractions(fractions)
    source = readers.open_source(
        source_path, format, columns=columns, classes=classes, resize=resize, id_case=id_case
    )
    seen = _Seen()
    chunks = _kept(source, seen, leave_out, progress)
    first = next(chunks, None)
    if first is None:
        raise ReadError(
            "every row of the source was forgotten before, so nothing is left to store; take a "
            "source with other rows, or readmit them (POST /v1/suppressions:readmit)"
        )
    with writer_for(first) as writer:
        for chunk in chain([first], chunks):
            writer.append(chunk.x, chunk.labels)
        labels = np.concatenate(seen.labels)
        found = source.classes or _infer_classes(labels, source.label_column)
        splits = np.concatenate(seen.splits) if seen.splits else stratify(labels, fractions, seed)
        written = writer.finish(
            splits=splits, classes=found, source=_describe(source, seed, fractions, seen)
        )
    dtype = str(first.x.dtype)
    return Ingested(
        key=written.key,
        rows=written.rows,
        shape=first.x.shape[1:],
        dtype=dtype,
        classes=found,
        size_bytes=written.size_bytes,
        format=source.format,
        id_case=id_case,
        record_id_origin=Origin.SOURCE if seen.record_ids else Origin.GENERATED,
        record_ids=seen.record_ids or seen.generated_ids(),
        subject_ids=seen.subject_ids or None,
        labels=labels,
        splits=splits,
        report=source_report.describe(
            source, dtype=dtype, classes=found, drawn=not seen.splits, suppressed=seen.suppressed
        ),
    )


def _kept(
    source: readers.Source, seen: _Seen, leave_out: LeaveOut | None, progress: Progress | None
) -> Iterator[readers.Chunk]:
    """The chunks without the rows that are left out, noted in ``seen``."""
    for chunk in source.chunks:
        kept = np.ones(len(chunk), bool) if leave_out is None else ~leave_out(chunk)
        seen.add(chunk.only(kept), kept)
        if kept.any():
            yield chunk.only(kept)
        if progress is not None:
            done = seen.read
            progress(done, source.rows if source.exact else max(done, source.rows))


class _Nowhere(arrays.Writer):
    """Takes rows and keeps none."""

    def __init__(self) -> None:
        self._rows = self._bytes = 0

    def append(self, rows: npt.NDArray[Any], labels: npt.NDArray[np.integer[Any]]) -> None:
        self._rows += len(rows)
        self._bytes += rows.nbytes

    def finish(
        self, *, splits: npt.NDArray[np.uint8], classes: int, source: dict[str, Any]
    ) -> arrays.Written:
        return arrays.Written(key="", rows=self._rows, size_bytes=self._bytes)


def stratify(
    labels: npt.NDArray[np.int64], fractions: tuple[float, float, float], seed: int
) -> npt.NDArray[np.uint8]:
    """Splits (n,) uint8 in the given ``fractions``, within about one row for every class.

    Rows lie shuffled within their classes, class after class, along a golden-ratio sequence: any
    run of it covers [0, 1) evenly, so each class and the whole get their shares, also when classes
    are smaller than 1/fraction. A class always keeps at least one training row.
    """
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(len(labels)), labels))
    place = (np.arange(len(labels)) * (np.sqrt(5) - 1) / 2 + generator.random()) % 1
    splits = np.empty(len(labels), np.uint8)
    splits[order] = np.searchsorted(np.cumsum(fractions)[:-1], place, side="right")
    if fractions[0] > 0:
        untrained = np.setdiff1d(labels, labels[splits == 0])
        _, firsts = np.unique(labels[order], return_index=True)
        rows = order[firsts]
        splits[rows[np.isin(labels[rows], untrained)]] = 0
    return splits


class _Seen:
    """What is kept of the chunks beside their rows."""

    def __init__(self) -> None:
        self.read = 0
        self.labels: list[npt.NDArray[np.int64]] = []
        self.splits: list[npt.NDArray[np.uint8]] = []
        self.record_ids, self.subject_ids = Texts(), Texts()
        self._kept: list[npt.NDArray[np.bool_]] = []

    def add(self, chunk: readers.Chunk, kept: npt.NDArray[np.bool_]) -> None:
        """Note what is left of a chunk, and which of its rows that are."""
        self.read += len(kept)
        self._kept.append(kept)
        self.labels.append(chunk.labels)
        self.record_ids.extend(chunk.record_ids or [])
        self.subject_ids.extend(chunk.subject_ids or [])
        if chunk.splits is not None:
            self.splits.append(chunk.splits)

    @property
    def suppressed(self) -> int:
        return self.read - sum(int(kept.sum()) for kept in self._kept)

    def generated_ids(self) -> list[str]:
        """Ids by the rows' positions in the source, whatever was left out of it."""
        positions = np.flatnonzero(np.concatenate(self._kept)).tolist()
        return [identifiers.generated(row, self.read) for row in positions]


def _check_fractions(fractions: tuple[float, float, float]) -> None:
    if len(fractions) != len(arrays.SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ReadError(
            f"the shares of {', '.join(arrays.SPLITS)} must be three numbers from 0 that sum to 1"
        )


def _infer_classes(labels: npt.NDArray[np.int64], column: str) -> int:
    """One more than the largest label; far more classes than rows are a mistake, not labels."""
    largest = int(labels.argmax())
    classes = int(labels[largest]) + 1
    if classes > max(2, len(labels)):
        raise ReadError(
            f"the label is larger than the number of rows ({len(labels)}); number the classes "
            "0, 1, 2, … or give the number of classes",
            row=largest + 1,
            column=column,
        )
    return classes


def _describe(
    source: readers.Source, seed: int, fractions: tuple[float, float, float], seen: _Seen
) -> dict[str, Any]:
    """Where the rows came from; the file's name only, as directories may tell more than needed."""
    described: dict[str, Any] = {"file": source.path.name, "format": source.format}
    if not seen.splits:
        described |= {"split_seed": seed, "fractions": list(fractions)}
    return described
