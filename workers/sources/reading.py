"""Read a file into an array in the store, and collect what the ledger records of its rows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models_store.protocols import SPLITS, Rows, RowWriter, Written
from service.ledger.database import identifiers
from service.ledger.database.identifiers import Case, Origin
from service.ledger.registry import datasets
from unlearning.inputs.typed_table import Options
from workers import readers
from workers.readers import Columns, ReadError, Table, process
from workers.sources import encoding, source_report
from workers.sources.fit import Fit
from workers.sources.texts import Texts

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)

Progress = Callable[[int, int], None]

#: Of the drawn splits; an append adds the number of its first row, so that each draws its own.
Seed = int | Sequence[int]

_PIECE = 1 << 16
_TRAIN = SPLITS.index("train")

#: Returns which rows (k,) of a chunk are not kept.
LeaveOut = Callable[[readers.Chunk], npt.NDArray[np.bool_]]


class NothingLeft(ReadError):
    """Every row of a source was left out."""


@dataclass(frozen=True)
class Ingested:
    """A stored array and what the database records of every row, in the array's order.

    ``subject_ids`` are the plain identities: turn them into digests and drop them. They are left
    out of ``repr``, so that no log shows them.
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
    #: The kind of the rows, and its facts (``inputs.facts``).
    input: Mapping[str, Any]
    record_ids: Sequence[str] = field(repr=False)
    subject_ids: Sequence[str] | None = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    splits: npt.NDArray[np.uint8] = field(repr=False)
    report: datasets.Report = field(repr=False)


def read_into_store(
    source_path: Path,
    *,
    rows: Rows | None,
    name: str,
    format: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen, so one default can be shared
    classes: int | None = None,
    resize: tuple[int, int] | None = None,
    id_case: Case | None = None,
    input: Mapping[str, Any] | None = None,
    table: Table | None = None,
    class_names: Sequence[str] | None = None,
    seed: Seed = 0,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    leave_out: LeaveOut | None = None,
    progress: Progress | None = None,
    fit: Fit | None = None,
) -> Ingested:
    """Read and check a file and write its rows into ``rows``; on any error nothing is left.

    ``input`` gives the kind of the rows: the ``name`` and ``options`` of an installed kind
    (default: images if the rows have three axes, else a table). ``table`` says that it is a typed
    table: then the source is read a second time, to learn the encoding from the training rows,
    unless ``fit`` has it. ``class_names`` are the words of labels, if they are known before.
    With None for ``rows`` nothing is stored, and the key is empty (``inspect``).
    ``leave_out`` is called for every chunk and returns which of its rows (k,) are not kept; the
    report counts them as suppressed.
    Without a split column, ``fractions`` of train, validation and audit rows are drawn with
    ``seed``, the same share of every class. Without a record id column ids are generated from the
    row's position in the file. ``progress(done, expected)`` is called after every chunk.
    ``fit`` is given for a source whose rows join a dataset: they must fit it.
    Raise ``ReadError``, ``NothingLeft`` if every row was left out, or a ``StoreError``.
    """
    _check_fractions(fractions)
    seen = _Seen(None if fit is None else fit.encoding, twice=table is not None and fit is None)
    shown = _Shown(progress)
    opened = functools.partial(
        process.opened,
        source_path,
        format,
        columns=columns,
        classes=classes,
        resize=resize,
        id_case=id_case,
        input=input,
        waiting=shown.again,
    )
    with opened(table=table, class_names=class_names) as source:
        if fit is not None:
            fit.check(source)
        chunks = _kept(source, seen, leave_out, shown, fit)
        first = next(chunks, None)
        if first is None:
            raise NothingLeft(
                "every row of the source was forgotten before, so nothing is left to store; take a "
                "source with other rows, or readmit them (POST /v1/suppressions:readmit)"
            )
        with _writer(rows, name, first) as writer:
            for chunk in chain([first], chunks):
                writer.append(chunk.x, chunk.labels)
            labels = seen.all_labels()
            found = source.classes or _infer_classes(labels, source.label_column)
            splits = (
                np.concatenate(seen.splits)
                if seen.splits
                else stratify(labels, fractions, seed, train_each=fit is None)
            )
            learned = None if fit is None else fit.encoding
            if table is not None and learned is None:
                training = seen.where(splits == _TRAIN)
                learned = _learned(opened, source, table, seen, training, shown)
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
            input=encoding.facts(learned, first.x.shape[1:]) if learned else source.input,
            record_id_origin=Origin.SOURCE if seen.record_ids else Origin.GENERATED,
            record_ids=seen.record_ids or seen.generated_ids(),
            subject_ids=seen.subject_ids or None,
            labels=labels,
            splits=splits,
            report=source_report.describe(
                source,
                dtype=dtype,
                classes=found,
                drawn=not seen.splits,
                suppressed=seen.suppressed,
                encoding=learned,
                unknown=seen.unknown,
            ),
        )


def _learned(
    opened: Callable[..., contextlib.AbstractContextManager[readers.Source]],
    source: readers.Source,
    table: Table,
    seen: _Seen,
    training: npt.NDArray[np.bool_],
    shown: _Shown,
) -> Options:
    """Read the source again, and return the encoding that its training rows give."""
    assert seen.content is not None
    types = {column.name: column.type for column in source.columns if column.type is not None}
    known = dataclasses.replace(table, types=types)
    again = encoding.Content()
    names = source.class_names if source.label_words else None
    with opened(table=known, class_names=names) as other:
        made = encoding.learn(
            shown.through(again.through(other.chunks)),
            training,
            types,
            source.tally.found,
            standardised=table.standardised,
        )
    again.require(seen.content)
    return made


def inspect(source_path: Path, **options: Any) -> Ingested:
    """Read and check a file as ``read_into_store`` does and store nothing."""
    return read_into_store(source_path, rows=None, name="", **options)


def _writer(
    rows: Rows | None, name: str, first: readers.Chunk
) -> contextlib.AbstractContextManager[RowWriter]:
    if rows is None:
        return contextlib.nullcontext(_Nowhere())
    return rows.writer(name=name, dtype=first.x.dtype, shape=first.x.shape[1:])


def _kept(
    source: readers.Source,
    seen: _Seen,
    leave_out: LeaveOut | None,
    shown: _Shown,
    fit: Fit | None,
) -> Iterator[readers.Chunk]:
    """Yield the chunks without the rows that are left out; note them in ``seen``."""
    read = source.chunks if seen.content is None else seen.content.through(source.chunks)
    for found in read:
        chunk = found if fit is None else fit.convert(found)
        kept = np.ones(len(chunk), bool) if leave_out is None else ~leave_out(chunk)
        seen.add(chunk.only(kept), kept)
        if kept.any():
            yield chunk.only(kept)
        shown.show(seen.read, source.rows if source.exact else max(seen.read, source.rows))


class _Shown:
    """The progress of a read, shown after each chunk and again while none comes."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._last = (0, 1)

    def show(self, done: int, expected: int) -> None:
        self._last = (done, expected)
        self.again()

    def through(self, chunks: Iterator[readers.Chunk]) -> Iterator[readers.Chunk]:
        """Yield chunks of what was read before; whoever is told of the progress keeps a lease."""
        for chunk in chunks:
            self.again()
            yield chunk

    def again(self) -> None:
        if self._progress is not None:
            self._progress(*self._last)


class _Nowhere:
    """Accepts rows and keeps none."""

    def __init__(self) -> None:
        self._rows = self._bytes = 0

    def append(self, rows: npt.NDArray[Any], labels: npt.NDArray[np.integer[Any]]) -> None:
        self._rows += len(rows)
        self._bytes += rows.nbytes

    def finish(
        self, *, splits: npt.NDArray[np.uint8], classes: int, source: dict[str, Any]
    ) -> Written:
        return Written(key="", rows=self._rows, size_bytes=self._bytes)


def stratify(
    labels: npt.NDArray[np.int64],
    fractions: tuple[float, float, float],
    seed: Seed,
    *,
    train_each: bool = True,
) -> npt.NDArray[np.uint8]:
    """Return splits (n,) uint8 in the given ``fractions``, within about one row for every class.

    Rows are shuffled within their classes and placed, class after class, along a golden-ratio
    sequence: any run of it covers [0, 1) evenly, so each class and the whole get their shares,
    also when classes are smaller than 1/fraction. With ``train_each`` a class always keeps at least
    one training row.
    """
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(len(labels)), labels))
    start, bounds = generator.random(), np.cumsum(fractions)[:-1]
    splits = np.empty(len(labels), np.uint8)
    for first in range(0, len(labels), _PIECE):  # in pieces, to bound the memory in use
        here = order[first : first + _PIECE]
        place = (np.arange(first, first + len(here)) * (np.sqrt(5) - 1) / 2 + start) % 1
        splits[here] = np.searchsorted(bounds, place, side="right")
    if train_each and fractions[0] > 0:
        ordered = labels[order]
        firsts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
        trained = np.logical_or.reduceat(splits[order] == 0, firsts)
        splits[order[firsts[~trained]]] = 0
    return splits


class _Seen:
    """What is kept of the chunks beside their rows.

    ``known`` is the encoding of the dataset that the rows join; ``twice``: the source will be read
    again, and has to be the same then.
    """

    def __init__(self, known: Options | None = None, *, twice: bool = False) -> None:
        self.read = 0
        self.content = encoding.Content() if twice else None
        self._unknown = None if known is None else encoding.Unknown(known)
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
        if self._unknown is not None:
            self._unknown.add(chunk.x)
        if chunk.splits is not None:
            self.splits.append(chunk.splits)

    @property
    def suppressed(self) -> int:
        return self.read - sum(int(kept.sum()) for kept in self._kept)

    @property
    def unknown(self) -> Mapping[str, int]:
        """Return how many words of the rows the dataset's encoding does not know, by column."""
        return {} if self._unknown is None else self._unknown.counts

    def where(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which rows of the source (n,) are those of the kept ones that are chosen."""
        found = np.concatenate(self._kept)
        found[found] = chosen
        return found

    def all_labels(self) -> npt.NDArray[np.int64]:
        """Return labels (n,) of the rows that were kept; call it once, as they are dropped here."""
        labels = np.concatenate(self.labels)
        self.labels.clear()
        return labels

    def generated_ids(self) -> Texts:
        """Return ids by the rows' positions in the source, counting rows that were left out."""
        positions = np.flatnonzero(np.concatenate(self._kept))
        return Texts(identifiers.generated(int(row), self.read) for row in positions)


def _check_fractions(fractions: tuple[float, float, float]) -> None:
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ReadError(
            f"the shares of {', '.join(SPLITS)} must be three numbers from 0 that sum to 1"
        )


def _infer_classes(labels: npt.NDArray[np.int64], column: str) -> int:
    """Return one more than the largest label; more classes than rows are taken for an error."""
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
    source: readers.Source, seed: Seed, fractions: tuple[float, float, float], seen: _Seen
) -> dict[str, Any]:
    """Return the source's provenance; only the file's name, as directories may be confidential."""
    described: dict[str, Any] = {"file": source.path.name, "format": source.format}
    if not seen.splits:
        described |= {
            "split_seed": seed if isinstance(seed, int) else list(seed),
            "fractions": list(fractions),
        }
    return described
