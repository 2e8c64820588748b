"""CSV with a header line: numeric feature columns, a label, and optional id, subject and split."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from workers.readers import contract, values
from workers.readers.contract import Chunk, Columns, Options, Parts, ReadError, Source

_BLOCK_BYTES = 4 << 20


def open_source(path: Path, options: Options) -> Source:
    """Numbers written as integers 0..255 throughout become uint8, anything else float32."""
    header = _header(path)
    columns = options.columns
    parts = contract.parts(header, columns)
    features = _features(header, columns, parts)
    return Source(
        path=path,
        format="csv",
        rows=estimate_rows(path),
        exact=False,
        label_column=parts.label,
        record_column=parts.record_id or "record_id",
        feature_names=features,
        chunks=_chunks(path, header, parts, features),
    )


def read_batches(
    path: Path,
    *,
    names: Sequence[str],
    wanted: Sequence[str],
    types: dict[str, pa.DataType],
    skip_rows: int,
) -> Iterator[pa.RecordBatch]:
    """The columns ``wanted`` of ``types``, in blocks; only an empty field is a missing value."""
    with arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(
            block_size=_BLOCK_BYTES, column_names=list(names), skip_rows=skip_rows
        ),
        convert_options=arrow_csv.ConvertOptions(
            column_types=types,
            include_columns=list(wanted),
            null_values=[""],
            strings_can_be_null=False,
        ),
    ) as reader:
        yield from reader


def matrix(
    batch: pa.RecordBatch, features: Sequence[str], dtype: np.dtype[Any], *, first: int
) -> np.ndarray[Any, Any]:
    """Feature columns as (k, d) of ``dtype``; a missing value is an error."""
    x = np.empty((batch.num_rows, len(features)), dtype)
    for position, name in enumerate(features):
        column = batch.column(name)
        if column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise ReadError(
                "the value is missing; fill it in or drop the row", row=row, column=name
            )
        x[:, position] = values.as_stored(column.to_numpy(zero_copy_only=False), dtype)
    return x


def texts(batch: pa.RecordBatch) -> Callable[[str], list[Any]]:
    """Values of a column of ``batch`` by its name."""

    def pull(name: str) -> list[Any]:
        found: list[Any] = batch.column(name).to_pylist()
        return found

    return pull


def estimate_rows(path: Path) -> int:
    """Number of lines, judged by the length of the first ones."""
    with path.open("rb") as stream:
        start = stream.read(1 << 16)
    return max(1, round(path.stat().st_size * max(1, start.count(b"\n")) / max(1, len(start))))


def find_wrong_field(
    path: Path, names: Sequence[str], numeric: Sequence[str], *, skip_rows: int
) -> ReadError | None:
    """Look for the field that the fast parser refused, to name its row and column."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = (line for line in csv.reader(stream) if line)
        for row, fields in enumerate(lines, start=1 - skip_rows):
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
                        "split), or list the feature columns to read",
                        row=row,
                        column=name,
                    )
    return None


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = next(csv.reader(stream), [])
    for name in header:
        if header.count(name) > 1:
            raise ReadError("the header names this column twice", column=name)
    return header


def _features(header: list[str], columns: Columns, parts: Parts) -> list[str]:
    if columns.image is not None:
        raise ReadError("a CSV file holds no images; use Parquet, NPZ or an image folder")
    if columns.features is None:
        features = [name for name in header if name not in parts.names]
    else:
        features = list(columns.features)
        for name in features:
            if name not in header:
                raise contract.missing(name, len(header))
    if not features:
        raise ReadError("no feature column is left beside the label and the identifiers")
    return features


def _chunks(path: Path, header: list[str], parts: Parts, features: list[str]) -> Iterator[Chunk]:
    dtype = np.dtype(np.uint8 if _are_bytes(path, header, features) else np.float32)
    types = {**dict.fromkeys(parts.names, pa.string()), **dict.fromkeys(features, pa.float64())}
    first = 1
    try:
        for batch in read_batches(path, names=header, wanted=list(types), types=types, skip_rows=1):
            x = matrix(batch, features, dtype, first=first)
            yield values.chunk(x, parts, texts(batch), first=first)
            first += batch.num_rows
    except pa.ArrowInvalid:
        # Its message quotes the row; ours names the place only.
        raise find_wrong_field(path, header, features, skip_rows=1) or ReadError(
            "the file is not well-formed CSV in UTF-8"
        ) from None


def _are_bytes(path: Path, header: list[str], features: list[str]) -> bool:
    """Whether every feature is written as an integer 0..255; stops at the first that is not."""
    types = dict.fromkeys(features, pa.int64())
    try:
        return all(
            values.are_bytes(column.to_numpy(zero_copy_only=False))
            for batch in read_batches(path, names=header, wanted=features, types=types, skip_rows=1)
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
    return True
