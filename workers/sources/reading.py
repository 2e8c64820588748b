"""Read a file into an array in the store, and collect what the ledger records of its rows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models_store.protocols import SPLITS, Rows, RowWriter, Written
from service.ledger.database.identifiers import Case, Origin
from service.ledger.registry import datasets, segments
from unlearning.inputs.typed_table import Options
from workers import readers
from workers.readers import Columns, ReadError, Table, process
from workers.sources import encoding, layouts, source_report
from workers.sources.fit import Fit
from workers.sources.layouts import Layout
from workers.sources.seen import Seen
from workers.sources.splits import DEFAULT_FRACTIONS, Seed, check_fractions, stratify

Progress = Callable[[int, int], None]

_TRAIN = SPLITS.index("train")


class Encode(Protocol):
    """Makes the rows that are stored of those that are read."""

    def __call__(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a row for each of ``x``."""

    def facts(self, shape: Sequence[int]) -> Mapping[str, Any]:
        """Return the facts of their kind (``inputs.facts``), for rows of this ``shape``."""


#: Returns which rows (k,) of a chunk are not kept, given the layout of its rows if it has one.
LeaveOut = Callable[[readers.Chunk, Layout | None], npt.NDArray[np.bool_]]


class NothingLeft(ReadError):
    """Every row of a source was left out."""


@dataclass(frozen=True)
class Ingested:
    """A stored array and what the database records of every row, in the array's order.

    ``subject_ids`` are the plain identities: turn them into digests and drop them. They are left
    out of ``repr``, so that no log shows them.
    """

    key: str
    #: Key of the array of texts; None: they are not kept.
    text_key: str | None
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

    @property
    def keys(self) -> list[str]:
        """Return the keys of what was stored."""
        return [self.key, *([] if self.text_key is None else [self.text_key])]


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
    files: Mapping[str, bytes] = MappingProxyType({}),
    table: Table | None = None,
    class_names: Sequence[str] | None = None,
    seed: Seed = 0,
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    text_bytes: int | None = None,
    leave_out: LeaveOut | None = None,
    progress: Progress | None = None,
    fit: Fit | None = None,
    encode: Encode | None = None,
) -> Ingested:
    """Read and check a file and write its rows into ``rows``; on any error nothing is left.

    ``input`` gives the kind of the rows: the ``name`` and ``options`` of an installed kind
    (default: images if the rows have three axes, else a table); ``files`` holds the bytes of the
    files that its options name, by option. ``table`` says that it is a typed
    table: then the source is read a second time, to learn the encoding from the training rows,
    unless ``fit`` has it. ``class_names`` are the words of labels, if they are known before.
    With None for ``rows`` nothing is stored, and the key is empty (``inspect``).
    ``leave_out`` is called for every chunk and returns which of its rows (k,) are not kept; the
    report counts them as suppressed.
    Without a split column, ``fractions`` of train, validation and audit rows are drawn with
    ``seed``, the same share of every class. Without a record id column ids are generated from the
    row's position in the file. ``progress(done, expected)`` is called after every chunk.
    ``encode`` makes the rows that are stored of those that are read; None: they are the same.
    With ``text_bytes`` their texts, of at most so many bytes, are stored in an array of their own.
    ``fit`` is given for a source whose rows join a dataset: they must fit it.
    Raise ``ReadError``, ``NothingLeft`` if every row was left out, or a ``StoreError``.
    """
    check_fractions(fractions)
    seen = Seen(None if fit is None else fit.encoding, twice=table is not None and fit is None)
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
        files=files,
        text_bytes=text_bytes,
        waiting=shown.again,
    )
    with opened(table=table, class_names=class_names) as source:
        if fit is not None:
            fit.check(source)
        # Rows that were computed have no columns of the source.
        layout = layouts.of_source(source) if encode is None else None
        encoded = _encoded(source.chunks, encode)
        chunks = _kept(encoded, source, layout, seen, leave_out, shown, fit)
        first = next(chunks, None)
        if first is None:
            raise NothingLeft(
                "every row of the source was forgotten before, so nothing is left to store; take a "
                "source with other rows, or readmit them (POST /v1/suppressions:readmit)"
            )
        with _writer(rows, name, first.x) as writer, _text_writer(rows, name, first) as texts:
            for chunk in chain([first], chunks):
                writer.append(chunk.x, chunk.labels)
                if chunk.texts is not None:
                    texts.append(chunk.texts, chunk.labels)
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
            said = _describe(source, seed, fractions, seen)
            written = writer.finish(splits=splits, classes=found, source=said)
            text_key = None
            if first.texts is not None:
                with _deleted_on_error(rows, written.key):
                    text_key = texts.finish(splits=splits, classes=found, source=said).key
        dtype = str(first.x.dtype)
        return Ingested(
            key=written.key,
            text_key=text_key,
            rows=written.rows,
            shape=first.x.shape[1:],
            dtype=dtype,
            classes=found,
            size_bytes=written.size_bytes,
            format=source.format,
            id_case=id_case,
            input=_input(source, learned, encode, first),
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
    seen: Seen,
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


def _input(
    source: readers.Source, learned: Options | None, encode: Encode | None, first: readers.Chunk
) -> Mapping[str, Any]:
    """Return the facts of the kind of the rows that are stored."""
    shape = first.x.shape[1:]
    if learned is not None:
        return encoding.facts(learned, shape)
    return source.input if encode is None else encode.facts(shape)


def inspect(source_path: Path, **options: Any) -> Ingested:
    """Read and check a file as ``read_into_store`` does and store nothing."""
    return read_into_store(source_path, rows=None, name="", **options)


def _writer(
    rows: Rows | None, name: str, first: npt.NDArray[Any]
) -> contextlib.AbstractContextManager[RowWriter]:
    if rows is None:
        return contextlib.nullcontext(_Nowhere())
    return rows.writer(name=name, dtype=first.dtype, shape=first.shape[1:])


def _text_writer(
    rows: Rows | None, name: str, first: readers.Chunk
) -> contextlib.AbstractContextManager[RowWriter]:
    if first.texts is None:
        return contextlib.nullcontext(_Nowhere())
    return _writer(rows, segments.text_name(name), first.texts)


@contextlib.contextmanager
def _deleted_on_error(rows: Rows | None, key: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if rows is not None:
            rows.delete(key)
        raise


def _encoded(chunks: Iterator[readers.Chunk], encode: Encode | None) -> Iterator[readers.Chunk]:
    if encode is None:
        yield from chunks
        return
    for chunk in chunks:
        yield dataclasses.replace(chunk, x=encode(chunk.x))


def _kept(
    chunks: Iterator[readers.Chunk],
    source: readers.Source,
    layout: Layout | None,
    seen: Seen,
    leave_out: LeaveOut | None,
    shown: _Shown,
    fit: Fit | None,
) -> Iterator[readers.Chunk]:
    """Yield the chunks without the rows that are left out; note them in ``seen``."""
    read = chunks if seen.content is None else seen.content.through(chunks)
    for found in read:
        chunk = found if fit is None else fit.convert(found)
        kept = np.ones(len(chunk), bool) if leave_out is None else ~leave_out(chunk, layout)
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
    source: readers.Source, seed: Seed, fractions: tuple[float, float, float], seen: Seen
) -> dict[str, Any]:
    """Return the source's provenance; only the file's name, as directories may be confidential."""
    described: dict[str, Any] = {"file": source.path.name, "format": source.format}
    if not seen.splits:
        described |= {
            "split_seed": seed if isinstance(seed, int) else list(seed),
            "fractions": list(fractions),
        }
    return described
