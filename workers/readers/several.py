"""A folder of files of one format, read as one source in the byte order of their names."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from unlearning.inputs.typed_table import Type
from workers.readers import typed
from workers.readers.contract import Chunk, Column, Options, ReadError, Source

Open = Callable[[Path, Options], Source]


def files(folder: Path) -> list[Path]:
    """Return the files of a folder that holds nothing else; [] if it holds directories, too."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in shown:
        if entry.is_symlink():  # it could lead out of the directory that the operator allowed
            raise ReadError("the folder holds a symbolic link; put the files themselves there")
    if not all(entry.is_file() for entry in shown):
        return []
    return sorted((folder / entry.name for entry in shown), key=os.fsencode)


def open_source(folder: Path, open_one: Open, options: Options) -> Source:
    """Open the files of a folder; all have the columns of the first one."""
    found = files(folder)
    if not found:
        raise ReadError("the folder holds directories, or nothing; put files of one format there")
    sources = _opened(found, open_one, options)
    known = _known(sources, options)
    if known is not options:
        sources = [_as_first(sources[0], one) for one in _opened(found, open_one, known)]
    return dataclasses.replace(
        sources[0],
        path=folder,
        rows=sum(source.rows for source in sources),
        exact=all(source.exact for source in sources),
        chunks=_chunks(found, sources),
    )


def _opened(found: Sequence[Path], open_one: Open, options: Options) -> list[Source]:
    sources: list[Source] = []
    for file in found:
        with _In(file):
            sources.append(open_one(file, options))
            _check_alike(sources[0], sources[-1])
    return sources


def _known(sources: Sequence[Source], options: Options) -> Options:
    """Return the options with the words of the labels, and the types, that all files have."""
    if options.class_names is None and sources[0].label_words:
        words = {word for one in sources for word in one.class_names or ()}
        options = dataclasses.replace(options, class_names=sorted(words))
    if options.table is not None:
        types = typed.join([_types(one) for one in sources])
        table = dataclasses.replace(options.table, types=types)
        options = dataclasses.replace(options, table=table)
    return options


def _types(source: Source) -> dict[str, Type]:
    return {one.name: one.type for one in source.columns if one.type is not None}


def _as_first(first: Source, source: Source) -> Source:
    """Return the source with what was said of the columns before their types were known."""
    stated = {one.name: one.stated for one in first.columns}
    columns = [dataclasses.replace(one, stated=stated[one.name]) for one in source.columns]
    return dataclasses.replace(source, columns=columns)


def _check_alike(first: Source, other: Source) -> None:
    if _parts(first.columns) != _parts(other.columns):
        names = _parts(first.columns).symmetric_difference(_parts(other.columns))
        raise ReadError(
            "the file has other columns than the first one, or in other parts; bring the same "
            "columns in every file",
            column=min(name for name, _ in names),
        )
    if first.feature_names != other.feature_names:
        raise ReadError(
            "the file has the columns of the first one in another order; list the features "
            "(columns.features)"
        )
    if first.label_words != other.label_words:
        raise ReadError("the labels are words in one of the files and numbers in another")
    named = (first.classes, first.class_names) != (other.classes, other.class_names)
    if named and not first.label_words:
        raise ReadError("the file names other classes than the first one")


def _parts(columns: Sequence[Column]) -> set[tuple[str, str]]:
    return {(column.name, column.part.value) for column in columns}


def _chunks(found: Sequence[Path], sources: Sequence[Source]) -> Iterator[Chunk]:
    """Yield the chunks of all files in one dtype, which each decides by its own numbers."""
    begun = [_begun(file, source) for file, source in zip(found, sources, strict=True)]
    dtypes = {first.x.dtype for first, _ in begun if first is not None}
    dtype = np.result_type(*dtypes) if dtypes else None
    for file, (first, rest) in zip(found, begun, strict=True):
        with _In(file):
            for chunk in chain([] if first is None else [first], rest):
                yield chunk if chunk.x.dtype == dtype else _in_dtype(chunk, dtype)


def _begun(file: Path, source: Source) -> tuple[Chunk | None, Iterator[Chunk]]:
    with _In(file):
        return next(source.chunks, None), source.chunks


def _in_dtype(chunk: Chunk, dtype: Any) -> Chunk:
    return dataclasses.replace(chunk, x=chunk.x.astype(dtype))


class _In:
    """Names the file in errors of its reader, whose rows are counted within it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if isinstance(error, ReadError):
            raise ReadError(
                f"in file {self._file.name!r}: {error.reason}", row=error.row, column=error.column
            ) from None
