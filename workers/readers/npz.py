"""NPZ: one array of rows, one of labels, and optional ids, subjects and splits.

Arrays are read out of the archive piece by piece, so that a large one is never whole in memory.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from workers.readers import class_words, images, numbers, parts, values
from workers.readers.contract import (
    Chunk,
    Columns,
    Options,
    Parts,
    ReadError,
    Recognised,
    Source,
)
from workers.readers.images import Layout

_FEATURES = ("x", "X", "features", "data", "images", "image", "rows", "arr_0")
_CHUNK_BYTES = 8 << 20
_IMAGE_AXES = 3


@dataclass(frozen=True)
class _Member:
    """One array of the archive, as its header describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data_offset: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def open_source(path: Path, options: Options) -> Source:
    """Open an archive: rows in C order, (n, d) or images (n, h, w), (n, h, w, c), (n, c, h, w).

    ``layout`` says which axis of images is which.

    Integers 0..255 throughout become uint8, other numbers float32.
    """
    columns = options.columns
    with zipfile.ZipFile(path) as archive:
        members = _members(archive)
    x, how = _feature_member(members, columns)
    layout = _layout(x, options)
    options.notes.layout = None if layout is None else layout.value
    found = parts.assign([name for name in members if name != x.name], columns)
    for name in found.names:
        if members[name].shape not in ((x.shape[0],), (x.shape[0], 1)):
            raise ReadError(f"expected one value for each of {x.shape[0]} rows", column=name)
    words = _label_words(path, members[found.label], options)
    return Source(
        path=path,
        format="npz",
        rows=x.shape[0],
        exact=True,
        label_column=found.label,
        rows_column=x.name,
        record_column=found.record_id,
        subject_column=found.subject_id,
        columns=parts.describe(list(members), columns, found, [x.name], how),
        classes=None if words is None else len(words),
        class_names=words,
        label_words=words is not None,
        chunks=_chunks(path, members, x, layout, how, found, options, words),
    )


def _label_words(path: Path, label: _Member, options: Options) -> Sequence[str] | None:
    """Return the words of the labels, None if they are numbers."""
    if label.dtype.kind not in "US":
        return None
    with zipfile.ZipFile(path) as archive:
        found = _texts({label.name: _whole(archive, label)}, slice(None))(label.name)
    return class_words.find([found], options, column=label.name)


def _members(archive: zipfile.ZipFile) -> dict[str, _Member]:
    found = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            raise ReadError("the archive holds something else than arrays; write it with np.savez")
        name = info.filename.removesuffix(".npy")
        with archive.open(info) as stream:
            found[name] = _read_header(cast(BinaryIO, stream), name, info.file_size)
    return found


def _read_header(stream: BinaryIO, name: str, size: int) -> _Member:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ReadError(
            "an array of Python objects would need pickle, which is never read; save it as numbers "
            "or as text (dtype 'U')",
            column=name,
        )
    if dtype.kind not in "biufUS":
        raise ReadError("the array holds neither numbers nor text", column=name)
    if fortran_order and len(shape) > 1:
        raise ReadError("the array is in Fortran order; save np.ascontiguousarray", column=name)
    if any(s < 0 for s in shape) or stream.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ReadError("the array is cut short or longer than its header says", column=name)
    return _Member(name, shape, dtype, stream.tell())


def _feature_member(members: dict[str, _Member], columns: Columns) -> tuple[_Member, Recognised]:
    asked = [columns.image] if columns.image is not None else list(columns.features or [])
    if len(asked) > 1:
        raise ReadError("name one array of features; an NPZ file keeps all rows in one")
    name = next((name for name in asked or _FEATURES if asked or name in members), None)
    if name is None:
        raise ReadError(f"no array of rows: none is called {', '.join(_FEATURES)}; name it")
    if name not in members:
        raise parts.missing(name, len(members))
    x = members[name]
    if len(x.shape) not in (2, 3, 4) or x.dtype.kind not in "biuf" or not x.row_bytes:
        raise ReadError("expected numbers of shape (n, d), (n, h, w) or with channels", column=name)
    return x, Recognised.DECLARED if asked else Recognised.NAME


def _layout(x: _Member, options: Options) -> Layout | None:
    """Return the layout of the axes; None for rows of a kind that defines its own axes."""
    options.check_type(x.dtype.kind, column=x.name)
    if options.kind is None or len(options.kind.input.axes) == _IMAGE_AXES:
        return images.layout(x.shape, x.name)
    options.check_axes(x.shape[1:], column=x.name)
    return Layout.TABLE if len(x.shape) == 2 else None


def _chunks(
    path: Path,
    members: dict[str, _Member],
    x: _Member,
    layout: Layout | None,
    how: Recognised,
    found: Parts,
    options: Options,
    words: Sequence[str] | None,
) -> Iterator[Chunk]:
    table = layout == Layout.TABLE
    names = [f"{x.name}[{position}]" for position in range(x.shape[1])] if table else []
    watch = numbers.Watch(options.watched(parts.watched(names, how)))
    with zipfile.ZipFile(path) as archive:
        dtype = options.dtype or _smallest(archive, x)
        columns = {name: _whole(archive, members[name]) for name in found.names}
        start = 0
        for piece in _pieces(archive, x):
            here = slice(start, start + len(piece))
            watch.see_all(names, piece)
            rows = numbers.stored(
                piece if layout is None else images.channels_first(piece, layout),
                dtype,
                first=start + 1,
                name=f"{x.name}[{{}}]".format,
            )
            yield values.chunk(rows, found, _texts(columns, here), first=start + 1, names=words)
            start += len(piece)
    watch.refuse()


def _smallest(archive: zipfile.ZipFile, x: _Member) -> np.dtype[Any]:
    are_bytes = x.dtype.kind != "f" and all(map(numbers.are_bytes, _pieces(archive, x)))
    return np.dtype(np.uint8 if are_bytes else np.float32)


def _pieces(archive: zipfile.ZipFile, member: _Member) -> Iterator[npt.NDArray[Any]]:
    """Yield consecutive rows of an array, a few megabytes at a time."""
    step = max(1, _CHUNK_BYTES // member.row_bytes)
    with archive.open(f"{member.name}.npy") as stream:
        stream.read(member.data_offset)
        for start in range(0, member.shape[0], step):
            rows = min(step, member.shape[0] - start)
            content = stream.read(rows * member.row_bytes)
            yield np.frombuffer(content, member.dtype).reshape(rows, *member.shape[1:])


def _whole(archive: zipfile.ZipFile, member: _Member) -> npt.NDArray[Any]:
    with archive.open(f"{member.name}.npy") as stream:
        stream.read(member.data_offset)
        return np.frombuffer(stream.read(), member.dtype).reshape(-1)


def _texts(columns: dict[str, npt.NDArray[Any]], here: slice) -> Callable[[str], list[Any]]:
    """Return a function from a column's name to its values in the rows ``here``."""

    def pull(name: str) -> list[Any]:
        found = columns[name][here]
        values: list[Any] = found.tolist()
        return [v.decode() for v in values] if found.dtype.kind == "S" else values

    return pull
