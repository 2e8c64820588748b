"""CSV with a header line, also compressed: numeric features, a label, and optional id and split."""

from __future__ import annotations

import csv
import dataclasses
import gzip
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from unlearning.inputs.typed_table import Type
from workers.readers import class_words, numbers, parts, texts, typed, values
from workers.readers.contract import (
    Chunk,
    Columns,
    Options,
    Parts,
    ReadError,
    Recognised,
    Source,
)

#: Each block costs some work per column, so wide tables get larger ones. A record longer than a
#: block makes it grow, up to the largest block that Arrow accepts.
_BLOCK_BYTES, _COLUMN_BYTES, _LARGEST_BLOCK_BYTES = 4 << 20, 1 << 10, (1 << 31) - 1


def open_source(path: Path, options: Options) -> Source:
    """Open a CSV file; if all features are integers 0..255 they become uint8, else float32.

    A typed table has cells instead (``typed``), and the white space around its names goes.
    """
    header = _header(path)
    if options.table is not None:
        header = [name.strip() for name in header]
    columns = options.columns
    found = parts.assign(header, columns)
    if options.texts is not None:
        return _of_texts(path, header, found, options)
    features, how = _features(header, columns, found)
    names = _class_names(path, header, found, options)
    described = parts.describe(header, columns, found, features, how)
    if options.table is not None:
        types = _types(path, header, features, options)
        chunks = _typed_chunks(path, header, found, types, how, names, options)
        described = typed.describe(described, types, options.table)
    else:
        watch = numbers.Watch(options.watched(parts.watched(features, how)))
        chunks = _chunks(path, header, found, features, watch, options.dtype, names)
    return Source(
        path=path,
        format="csv",
        rows=estimate_rows(path),
        exact=False,
        label_column=found.label,
        record_column=found.record_id,
        subject_column=found.subject_id,
        feature_names=features,
        columns=described,
        classes=None if names is None else len(names),
        class_names=names,
        label_words=names is not None,
        chunks=chunks,
    )


def _of_texts(path: Path, header: list[str], found: Parts, options: Options) -> Source:
    """Return the source whose rows are made of one column of texts."""
    column, how = texts.column(header, options.columns, found)
    names = _class_names(path, header, found, options)
    return Source(
        path=path,
        format="csv",
        rows=estimate_rows(path),
        exact=False,
        label_column=found.label,
        record_column=found.record_id,
        subject_column=found.subject_id,
        rows_column=column,
        columns=parts.describe(header, options.columns, found, [column], how),
        classes=None if names is None else len(names),
        class_names=names,
        label_words=names is not None,
        chunks=_chunks_of_texts(path, header, found, column, names, options),
    )


def _chunks_of_texts(
    path: Path,
    header: list[str],
    found: Parts,
    column: str,
    names: Sequence[str] | None,
    options: Options,
) -> Iterator[Chunk]:
    types = dict.fromkeys([*found.names, column], pa.string())
    first = 1
    try:
        for batch in read_batches(path, names=header, wanted=list(types), types=types):
            pull = by_name(batch)
            x = texts.rows(pull(column), options, first=first, column=column)
            chunk = values.chunk(x, found, pull, first=first, names=names)
            yield texts.kept(chunk, pull(column), options, first=first, column=column)
            first += batch.num_rows
    except pa.ArrowInvalid:
        raise _not_csv(path, header, ()) from None


def read_batches(
    path: Path,
    *,
    names: Sequence[str],
    wanted: Sequence[str],
    types: dict[str, pa.DataType],
    header: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Yield the columns ``wanted`` of ``types`` in blocks; only an empty field is missing."""
    options = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=list(wanted),
        null_values=[""],
        strings_can_be_null=False,
    )
    done, block = 0, max(_BLOCK_BYTES, _COLUMN_BYTES * len(names))
    while True:
        try:
            for batch in _from(path, done, block, names=names, header=header, options=options):
                done += batch.num_rows
                yield batch
            return
        except pa.ArrowInvalid as error:
            if "block size" not in str(error) or block == _LARGEST_BLOCK_BYTES:
                raise
            block = min(8 * block, _LARGEST_BLOCK_BYTES)


def _from(
    path: Path,
    done: int,
    block: int,
    *,
    names: Sequence[str],
    header: bool,
    options: arrow_csv.ConvertOptions,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows after the first ``done``, in blocks of ``block`` bytes."""
    with arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(
            block_size=block, column_names=list(names), skip_rows_after_names=int(header)
        ),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=options,
    ) as reader:
        for batch in reader:
            if batch.num_rows > done:
                yield batch.slice(done)
            done = max(0, done - batch.num_rows)


def matrix(
    batch: pa.RecordBatch,
    features: Sequence[str],
    dtype: np.dtype[Any],
    *,
    first: int,
    watch: numbers.Watch,
) -> np.ndarray[Any, Any]:
    """Return feature columns as (k, d) of ``dtype``; a missing value is an error."""
    x = np.empty((batch.num_rows, len(features)), dtype)
    position_of = {name: position for position, name in enumerate(batch.schema.names)}
    columns = batch.columns
    for position, name in enumerate(features):
        column = columns[position_of[name]]
        if column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise ReadError(
                "the value is missing; fill it in or drop the row", row=row, column=name
            )
        found = column.to_numpy(zero_copy_only=False)
        watch.see(name, found)
        x[:, position] = numbers.stored(found, dtype, first=first, name=partial(_same, name))
    return x


def _same(name: str, _position: int) -> str:
    return name


def by_name(batch: pa.RecordBatch) -> Callable[[str], list[Any]]:
    """Return a function from a column's name to its values in ``batch``."""

    def pull(name: str) -> list[Any]:
        found: list[Any] = batch.column(name).to_pylist()
        return found

    return pull


def estimate_rows(path: Path) -> int:
    """Return the number of lines, estimated from the length of the first ones."""
    with path.open("rb") as stored:
        stream = gzip.GzipFile(fileobj=stored) if is_compressed(path) else stored
        lines = stream.read(1 << 16).count(b"\n")
        read = stored.tell()
    return max(1, round(path.stat().st_size * max(1, lines) / max(1, read)))


def is_compressed(path: Path) -> bool:
    """Return whether the file is compressed by gzip, by its name, as Arrow decides it too."""
    return path.suffix.lower() == ".gz"


def open_text(path: Path) -> TextIO:
    """Open the file, compressed or not, as text in UTF-8 with its line ends unchanged."""
    if is_compressed(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def find_wrong_field(
    path: Path, names: Sequence[str], numeric: Sequence[str], *, header: bool = True
) -> ReadError | None:
    """Return an error that names row and column of the field that the fast parser refused."""
    # The csv module's own limit of 128 KiB would stop at a long text field.
    csv.field_size_limit(_LARGEST_BLOCK_BYTES)
    with open_text(path) as stream:
        lines = (line for line in csv.reader(stream) if line)
        for row, fields in enumerate(lines, start=1 - header):
            if row < 1:
                continue
            if len(fields) != len(names):
                return ReadError(
                    f"the row has {len(fields)} fields, expected {len(names)}", row=row
                )
            found = dict(zip(names, fields, strict=True))
            for name in numeric:
                if not _is_number(found[name]):
                    return ReadError(
                        "not a number; give the column its part (record id, subject, split), leave "
                        "it out (columns.ignored), or declare a typed table, whose columns may "
                        "hold words (table)",
                        row=row,
                        column=name,
                    )
    return None


def _header(path: Path) -> list[str]:
    csv.field_size_limit(_LARGEST_BLOCK_BYTES)
    with open_text(path) as stream:
        return next(csv.reader(stream), [])


def _features(header: list[str], columns: Columns, found: Parts) -> tuple[list[str], Recognised]:
    if columns.image is not None:
        raise ReadError("a CSV file holds no images; use Parquet, NPZ or an image folder")
    return parts.features(header, columns, found)


def _chunks(
    path: Path,
    header: list[str],
    found: Parts,
    features: list[str],
    watch: numbers.Watch,
    dtype: np.dtype[Any] | None,
    names: Sequence[str] | None,
) -> Iterator[Chunk]:
    if dtype is None:
        dtype = np.dtype(np.uint8 if _are_bytes(path, header, features) else np.float32)
    types = {**dict.fromkeys(found.names, pa.string()), **dict.fromkeys(features, pa.float64())}
    first = 1
    try:
        for batch in read_batches(path, names=header, wanted=list(types), types=types):
            x = matrix(batch, features, dtype, first=first, watch=watch)
            yield values.chunk(x, found, by_name(batch), first=first, names=names)
            first += batch.num_rows
    except pa.ArrowInvalid:
        raise _not_csv(path, header, features) from None
    watch.refuse()


def _typed_chunks(
    path: Path,
    header: list[str],
    found: Parts,
    types: dict[str, Type],
    how: Recognised,
    names: Sequence[str] | None,
    options: Options,
) -> Iterator[Chunk]:
    assert options.table is not None
    reader = typed.Reader(types, options, parts.watched(list(types), how))
    first = 1
    try:
        for batch in _texts_of(path, header, [*found.names, *types]):
            x = reader.rows(batch, first=first)
            pull = _tidied(by_name(batch), found.split)
            missing = options.table.missing
            made = values.chunk(x, found, pull, first=first, names=names, missing=missing)
            yield dataclasses.replace(made, readings=reader.readings)
            first += batch.num_rows
    except pa.ArrowInvalid:
        raise _not_csv(path, header, ()) from None
    reader.finish()


def _types(path: Path, header: list[str], features: list[str], options: Options) -> dict[str, Type]:
    assert options.table is not None
    typed.check(options.table, features, options)
    try:
        return typed.recognise(_texts_of(path, header, features), features, options.table)
    except pa.ArrowInvalid:
        raise _not_csv(path, header, ()) from None


def _class_names(
    path: Path, header: list[str], found: Parts, options: Options
) -> Sequence[str] | None:
    """Return the words of the labels, None if they are numbers."""
    column = found.label
    pieces = (batch.column(0).to_pylist() for batch in _texts_of(path, header, [column]))
    try:
        return class_words.find(pieces, options, column=column)
    except pa.ArrowInvalid:
        raise _not_csv(path, header, ()) from None


def _texts_of(path: Path, header: list[str], wanted: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns as texts, in blocks."""
    types = dict.fromkeys(wanted, pa.string())
    return read_batches(path, names=header, wanted=wanted, types=types)


def _tidied(pull: Callable[[str], list[Any]], split: str | None) -> Callable[[str], list[Any]]:
    """Return the function ``pull`` without white space around splits; ids lose theirs later."""

    def tidied(name: str) -> list[Any]:
        found = pull(name)
        return [one and one.strip() for one in found] if name == split else found

    return tidied


def _not_csv(path: Path, header: Sequence[str], features: Sequence[str]) -> ReadError:
    """Return the error for a file that Arrow refuses; its message would quote the row."""
    return find_wrong_field(path, header, features) or ReadError(
        "the file is not well-formed CSV in UTF-8"
    )


def _are_bytes(path: Path, header: list[str], features: list[str]) -> bool:
    """Return whether every feature is an integer 0..255; stop at the first that is not."""
    types = dict.fromkeys(features, pa.int64())
    try:
        return all(
            numbers.are_bytes(column.to_numpy(zero_copy_only=False))
            for batch in read_batches(path, names=header, wanted=features, types=types)
            for column in batch.columns
        )
    except pa.ArrowInvalid:
        return False


def _is_number(text: str) -> bool:
    if text == "":
        return True  # a missing value, which has an error of its own
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text  # Python's float() accepts more than CSV numbers
