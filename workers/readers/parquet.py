"""Parquet: numeric columns, or one column of encoded images as the Hugging Face hub stores them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unlearning.inputs.typed_table import Type
from workers.readers import class_words, images, numbers, parts, texts, typed, values
from workers.readers.contract import (
    Chunk,
    Column,
    Options,
    Parts,
    ReadError,
    Recognised,
    Source,
)
from workers.readers.csv import matrix

_IMAGE_ROWS, _NUMBER_ROWS = 512, 1 << 14
_BUFFER_BYTES = 1 << 18


@dataclass(frozen=True)
class _Layout:
    """The parts that columns play; either ``image``, ``text`` or ``features`` is given."""

    parts: Parts
    image: str | None
    features: list[str]
    recognised: Recognised
    columns: list[Column]
    #: The only feature is a column of lists, each a row of the array.
    lists: bool = False
    #: The column of texts that rows are made of.
    text: str | None = None
    #: The words of the labels, if they are words.
    words: Sequence[str] | None = None
    #: Of a typed table, the types of the features.
    types: dict[str, Type] | None = None


def open_source(path: Path, options: Options) -> Source:
    """Open a file: images (channels, height, width) uint8; integers 0..255 uint8, else float32.

    An identifier may be a field of a struct, written with a dot: ``img.path``.
    """
    return open_table(path, "parquet", _Parquet(path), options)


class Table(Protocol):
    """A file that Arrow reads in batches of columns, whatever its format."""

    @property
    def schema(self) -> pa.Schema:
        """Return the columns' names and types."""

    @property
    def rows(self) -> int:
        """Return the number of rows, estimated unless ``exact``."""

    @property
    def exact(self) -> bool:
        """Return whether ``rows`` is exact."""

    def batches(
        self, columns: Sequence[str], rows: int, *, features: Collection[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield these columns from the first row on, in batches of at most ``rows``.

        ``features`` are those of which the values are only read as numbers.
        """

    def are_bytes(self, columns: Sequence[str]) -> bool:
        """Return whether all values of these columns are integers 0..255."""


def open_table(path: Path, format: str, table: Table, options: Options) -> Source:
    """Return the source that a table is."""
    layout = _layout(table.schema, options)
    if options.table is not None:
        layout = _typed(table, layout, options)
    layout = replace(layout, words=_label_words(table, layout.parts.label, options))
    hub = _class_names(table.schema, layout.parts.label)
    return Source(
        path=path,
        format=format,
        rows=table.rows,
        exact=table.exact,
        label_column=layout.parts.label,
        record_column=layout.parts.record_id,
        subject_column=layout.parts.subject_id,
        feature_names=None if layout.lists else layout.features or None,
        rows_column=layout.text or (layout.features[0] if layout.lists else "x"),
        columns=layout.columns,
        classes=None if layout.words is None else len(layout.words),
        class_names=hub if layout.words is None else layout.words,
        label_words=layout.words is not None,
        chunks=_chunks(table, layout, options),
    )


class _Parquet:
    """See ``Table``."""

    exact = True

    def __init__(self, path: Path) -> None:
        # With other settings the file object keeps all that it has read.
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        self.schema = self._file.schema_arrow
        self.rows = self._file.metadata.num_rows

    def batches(
        self, columns: Sequence[str], rows: int, *, features: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        # Each thread would keep some memory of its own.
        yield from self._file.iter_batches(rows, columns=list(columns), use_threads=False)

    def are_bytes(self, columns: Sequence[str]) -> bool:
        return are_bytes(self, columns)


def _layout(schema: pa.Schema, options: Options) -> _Layout:
    columns = options.columns
    names, nested = schema.names, _nested_names(schema)
    found = parts.assign(names, columns, nested=nested)
    parts.refuse_index(_pandas_index(schema), columns, found)
    if options.texts is not None:
        text, how = texts.column(names, columns, found, nested=nested)
        described = parts.describe(names, columns, found, [text], how)
        return _Layout(found, None, [], how, described, text=text)
    image = None if columns.features is not None else parts.image(names, columns, nested=nested)
    if image is not None and not _holds_images(schema, image[0]):
        if image[1] == Recognised.DECLARED:
            raise ReadError(
                "not a column of images: expected binary, or a struct with a binary field 'bytes'",
                column=image[0],
            )
        image = None
    if image is not None:
        described = parts.describe(names, columns, found, [image[0]], image[1])
        return _Layout(found, image[0], [], image[1], described)
    features, how = _features(schema, options, found)
    described = parts.describe(names, columns, found, features, how)
    lists = len(features) == 1 and _is_list(schema.field(features[0]).type)
    return _Layout(found, None, features, how, described, lists)


def _typed(table: Table, layout: _Layout, options: Options) -> _Layout:
    """Return the layout with the types of the features, which may take a pass over them."""
    assert options.table is not None
    if layout.image is not None:
        raise ReadError("a typed table holds no images; leave one of the two out")
    features = layout.features
    typed.check(options.table, features, options)
    batches = _batches(table, features, _NUMBER_ROWS, features)
    types = typed.recognise(batches, features, options.table)
    columns = typed.describe(layout.columns, types, options.table)
    return replace(layout, columns=columns, types=types)


def _label_words(table: Table, label: str, options: Options) -> Sequence[str] | None:
    """Return the words of the labels, None if they are numbers."""
    outer = label if label in table.schema.names else label.rsplit(".", 1)[0]
    kind = table.schema.field(outer).type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return None
    pieces = (
        [str(one) if isinstance(one, bool) else one for one in _column(batch, label).to_pylist()]
        for batch in table.batches([outer], _NUMBER_ROWS, features=())
    )
    return class_words.find(pieces, options, column=label)


def _pandas_index(schema: pa.Schema) -> list[str]:
    """Return the columns of the file that were the index of a pandas data frame."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in index if isinstance(name, str) and name in schema.names]


def _class_names(schema: pa.Schema, label: str) -> list[str] | None:
    """Return the classes' names as the Hugging Face hub writes them into the file."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        names = described["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if known else None


def _nested_names(schema: pa.Schema) -> list[str]:
    return [
        f"{column.name}.{child.name}"
        for column in schema
        if pa.types.is_struct(column.type)
        for child in column.type
    ]


def _holds_images(schema: pa.Schema, name: str) -> bool:
    if name not in schema.names:
        return False
    found = schema.field(name).type
    if pa.types.is_struct(found):
        position = found.get_field_index("bytes")
        return position >= 0 and _is_binary(found.field(position).type)
    return _is_binary(found)


def _is_binary(found: pa.DataType) -> bool:
    return bool(pa.types.is_binary(found) or pa.types.is_large_binary(found))


def _is_list(found: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(found) for is_kind in kinds)


def _features(schema: pa.Schema, options: Options, found: Parts) -> tuple[list[str], Recognised]:
    names = schema.names
    types = dict(zip(names, schema.types, strict=True))
    features, how = parts.features(names, options.columns, found)
    if options.table is not None:
        for name in features:
            if not typed.holds_values(types[name]):
                raise ReadError(
                    "the column holds neither numbers nor words nor booleans; give it its part, or "
                    "leave it out (columns.ignored)",
                    column=name,
                )
        return features, how
    if len(features) == 1 and _is_list(types[features[0]]):
        types[features[0]] = types[features[0]].value_type
    for name in features:
        if pa.types.is_floating(types[name]):
            options.check_type("f", column=name)
        if not any(
            is_kind(types[name])
            for is_kind in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
        ):
            raise ReadError(
                "not a column of numbers; convert it, give it its part (record id, subject, split, "
                "image), leave it out (columns.ignored), or declare a typed table, whose columns "
                "may hold words (table)",
                column=name,
            )
    return features, how


def _chunks(table: Table, layout: _Layout, options: Options) -> Iterator[Chunk]:
    if layout.text is not None:
        yield from _chunks_of_texts(table, layout, layout.text, options)
        return
    typed_rows = layout.types is not None
    dtype = np.dtype(np.int32) if typed_rows else options.dtype or _smallest(table, layout)
    # A list has no name for each number that could look like that of a row number.
    watched = [] if layout.lists else parts.watched(layout.features, layout.recognised)
    watch = numbers.Watch(() if typed_rows else options.watched(watched))
    decoder = images.Decoder(options, column=layout.image or "")
    reader = None
    if layout.types is not None:
        reader = typed.Reader(layout.types, options, watched)
    names = {*layout.parts.names, *layout.features, *([layout.image] if layout.image else [])}
    missing = () if options.table is None else options.table.missing
    first = 1
    rows = _IMAGE_ROWS if layout.image else _NUMBER_ROWS
    for batch in _batches(table, sorted(names), rows, layout.features):
        x: np.ndarray[Any, Any]
        if reader is not None:
            x = reader.rows(batch, first=first)
        elif layout.lists:
            x = _rows(batch, layout.features[0], dtype, first=first)
        elif layout.image:
            x = decoder.decode(_encoded(batch.column(layout.image)), first=first)
        else:
            x = matrix(batch, layout.features, dtype, first=first, watch=watch)
        made = values.chunk(
            x, layout.parts, _values(batch), first=first, names=layout.words, missing=missing
        )
        yield made if reader is None else replace(made, readings=reader.readings)
        first += batch.num_rows
    watch.refuse()
    if reader is not None:
        reader.finish()


def _chunks_of_texts(
    table: Table, layout: _Layout, column: str, options: Options
) -> Iterator[Chunk]:
    names = sorted({*layout.parts.names, column})
    first = 1
    for batch in _batches(table, names, _NUMBER_ROWS, ()):
        pull = _values(batch)
        x = texts.rows(pull(column), options, first=first, column=column)
        chunk = values.chunk(x, layout.parts, pull, first=first, names=layout.words)
        yield texts.kept(chunk, pull(column), options, first=first, column=column)
        first += batch.num_rows


def _smallest(table: Table, layout: _Layout) -> np.dtype[Any]:
    small = bool(layout.features) and not layout.lists and table.are_bytes(layout.features)
    return np.dtype(np.uint8 if small else np.float32)


def _rows(
    batch: pa.RecordBatch, name: str, dtype: np.dtype[Any], *, first: int
) -> np.ndarray[Any, Any]:
    """Return lists of a column, all as long as the first one, as (k, length) of ``dtype``."""
    column = batch.column(name)
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ReadError("the list is missing; fill it in or drop the row", row=row, column=name)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    uneven = np.flatnonzero(lengths != lengths[0])
    if len(uneven) or not lengths[0]:
        raise ReadError(
            "the list is empty or not as long as the ones before; pad all lists to one length",
            row=first + int(uneven[0] if len(uneven) else 0),
            column=name,
        )
    values = column.flatten()
    if values.null_count:
        place = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise ReadError(
            "a number of the list is missing; fill it in or drop the row",
            row=first + place // int(lengths[0]),
            column=name,
        )
    found = values.to_numpy(zero_copy_only=False).reshape(len(lengths), -1)
    return numbers.stored(found, dtype, first=first, name=f"{name}[{{}}]".format)


def _batches(
    table: Table, names: list[str], rows: int, features: Collection[str]
) -> Iterator[pa.RecordBatch]:
    """Yield batches of these columns, with as little memory as possible."""
    pool = pa.default_memory_pool()
    for batch in table.batches(names, rows, features=features):
        yield batch
        pool.release_unused()  # otherwise freed memory is kept and more is allocated each time
    pool.release_unused()


def _encoded(column: pa.Array) -> list[bytes | None]:
    """Return the images' bytes; a path beside them is never opened."""
    found: list[bytes | None]
    if pa.types.is_struct(column.type):
        # flatten() passes the struct's own nulls on to its fields, field() does not.
        column = column.flatten()[column.type.get_field_index("bytes")]
    found = column.to_pylist()
    return found


def _values(batch: pa.RecordBatch) -> Callable[[str], Sequence[Any]]:
    """Return a function from the name of a column or a struct's field to its values.

    Integer values come as an array.
    """

    def pull(name: str) -> Sequence[Any]:
        column = _column(batch, name)
        integers = pa.types.is_integer(column.type) and not column.null_count
        found: Sequence[Any] = (
            column.to_numpy(zero_copy_only=False) if integers else column.to_pylist()
        )
        return found

    return pull


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    outer, inner = name.rsplit(".", 1)
    column = batch.column(outer)
    return column.flatten()[column.type.get_field_index(inner)]


def are_bytes(table: Table, features: Sequence[str]) -> bool:
    """Return whether all features are integers 0..255; stop at the first that is not."""
    wanted = set(features)
    if any(pa.types.is_floating(field.type) for field in table.schema if field.name in wanted):
        return False
    return all(
        numbers.are_bytes(column.to_numpy(zero_copy_only=False))
        for batch in table.batches(features, 1 << 16, features=())
        for column in batch.columns
        if not column.null_count
    )
