"""JSON Lines: an object on every line, its members the columns; lists of numbers are rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.json as arrow_json

from workers.readers import numbers, parquet
from workers.readers.contract import Options, ReadError, Source
from workers.readers.csv import estimate_rows

_BLOCK_BYTES = 4 << 20


def open_source(path: Path, options: Options) -> Source:
    """Open a file, also compressed by gzip; columns are those of the first lines."""
    return parquet.open_table(path, "json_lines", _JsonLines(path), options)


class _JsonLines:
    """See ``parquet.Table``."""

    exact = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows = estimate_rows(path)
        try:
            with _open(path, None) as reader:
                found = reader.schema
        except pa.ArrowInvalid:
            raise _unlike(0) from None
        # A text that looks like a moment is an id as any other.
        self.schema = pa.schema(
            field.with_type(pa.string()) if pa.types.is_temporal(field.type) else field
            for field in found
        )

    def batches(
        self, columns: Sequence[str], rows: int, *, features: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        # Whole numbers of the first lines may be followed by others. What names a record or a
        # class stays as it is.
        fields = [_wide(field) if field.name in features else field for field in self.schema]
        yield from self._read(columns, rows, fields)

    def are_bytes(self, columns: Sequence[str]) -> bool:
        types = [self.schema.field(name).type for name in columns]
        if not all(pa.types.is_integer(one) or pa.types.is_boolean(one) for one in types):
            return False
        try:
            return all(
                numbers.are_bytes(column.to_numpy(zero_copy_only=False))
                for batch in self._read(columns, 1 << 16, list(self.schema))
                for column in batch.columns
                if not column.null_count
            )
        except ReadError:
            return False  # a number with a fraction among whole ones

    def _read(
        self, columns: Sequence[str], rows: int, fields: Sequence[pa.Field]
    ) -> Iterator[pa.RecordBatch]:
        done = 0
        try:
            with _open(self._path, pa.schema(fields)) as reader:
                for batch in reader:
                    chosen = batch.select(list(columns))
                    for start in range(0, chosen.num_rows, rows):
                        yield chosen.slice(start, rows)
                    done += batch.num_rows
        except pa.ArrowInvalid:
            raise _unlike(done) from None


def _unlike(done: int) -> ReadError:
    """Return the error for lines after the first ``done``; Arrow's own message quotes them."""
    return ReadError(
        f"a line after row {done} is not an object with the members of the first lines, each with "
        "a value of the same type; write one JSON object a line, in UTF-8"
    )


def _wide(field: pa.Field) -> pa.Field:
    """Return a member with any numbers in the place of whole ones."""
    kind = field.type
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
        return field.with_type(pa.list_(pa.float64()))
    return field.with_type(pa.float64()) if pa.types.is_integer(kind) else field


def _open(path: Path, schema: pa.Schema | None) -> arrow_json.JSONStreamingReader:
    unexpected = "infer" if schema is None else "error"
    return arrow_json.open_json(
        path,
        read_options=arrow_json.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior=unexpected
        ),
    )
