"""CSV with a header line, also compressed: numeric features, a label, and optional id and split."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from workers.readers import numbers, parts, texts, values
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
    """Open a CSV file; if all features are integers 0..255 they become uint8, else float32."""
    header = _header(path)
    columns = options.columns
    found = parts.assign(header, columns)
    if options.texts is not None:
        return _of_texts(path, header, found, options)
    features, how = _features(header, columns, found)
    watch = numbers.Watch(options.watched(parts.watched(features, how)))
    return Source(
        path=path,
        format="csv",
        rows=estimate_rows(path),
        exact=False,
        label_column=found.label,
        record_column=found.record_id,
        subject_column=found.subject_id,
        feature_names=features,
        columns=parts.describe(header, columns, found, features, how),
        chunks=_chunks(path, header, found, features, watch, options.dtype),
    )


def _of_texts(path: Path, header: list[str], found: Parts, options: Options) -> Source:
    """Return the source whose rows are made of one column of texts."""
    column, how = texts.column(header, options.columns, found)
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
        chunks=_chunks_of_texts(path, header, found, column, options),
    )


def _chunks_of_texts(
    path: Path, header: list[str], found: Parts, column: str, options: Options
) -> Iterator[Chunk]:
    types = dict.fromkeys([*found.names, column], pa.string())
    first = 1
    try:
        for batch in read_batches(path, names=header, wanted=list(types), types=types):
            pull = by_name(batch)
            x = texts.rows(pull(column), options, first=first, column=column)
            yield values.chunk(x, found, pull, first=first)
            first += batch.num_rows
    except pa.ArrowInvalid:
        raise find_wrong_field(path, header, []) or _ill_formed() from None


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
                        "not a number; convert the column, give it its part (record id, subject, "
                        "split), or leave it out (columns.ignored)",
                        row=row,
                        column=name,
                    )
    return None


def _ill_formed() -> ReadError:
    return ReadError("the file is not well-formed CSV in UTF-8")


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
) -> Iterator[Chunk]:
    if dtype is None:
        dtype = np.dtype(np.uint8 if _are_bytes(path, header, features) else np.float32)
    types = {**dict.fromkeys(found.names, pa.string()), **dict.fromkeys(features, pa.float64())}
    first = 1
    try:
        for batch in read_batches(path, names=header, wanted=list(types), types=types):
            x = matrix(batch, features, dtype, first=first, watch=watch)
            yield values.chunk(x, found, by_name(batch), first=first)
            first += batch.num_rows
    except pa.ArrowInvalid:
        # Arrow's message quotes the row; ours names only the place.
        raise find_wrong_field(path, header, features) or _ill_formed() from None
    watch.refuse()


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
