"""Numeric arrays of a MATLAB 5 file (``.mat``, version 7 and before), and nothing else of it.

Written here because ``scipy.io.loadmat`` ends the process with a segmentation fault on some damaged
files. After MathWorks' "MAT-File Format", chapter 1: a header of 128 bytes, then elements, each a
tag (type, number of bytes) and its data padded to eight bytes; an array is an element of elements
(flags, dimensions, name, values), and may be compressed as a whole.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.readers.contract import ReadError

_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_DTYPES = {
    1: "<i1",
    2: "<u1",
    3: "<i2",
    4: "<u2",
    5: "<i4",
    6: "<u4",
    7: "<f4",
    9: "<f8",
    12: "<i8",
    13: "<u8",
}
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x0800
_HEADER_BYTES = 128
_NAME_BYTES = 1024


def read(path: Path, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """The real numeric arrays called ``names`` that the file has, in the dtype of their bytes."""
    content = path.read_bytes()
    if content[126:128] != b"IM":
        raise ReadError(
            "not a little-endian MATLAB 5 file; in MATLAB write it with save(..., '-v7'), or "
            "convert it to NPZ"
        )
    found = {}
    for kind, data in _elements(memoryview(content)[_HEADER_BYTES:]):
        if kind == _COMPRESSED:
            kind, data = _MATRIX, _decompress(data, names)
        if kind == _MATRIX and _name(data) in names:
            found[_name(data)] = _array(data)
    return found


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(type, bytes) of the elements that lie one after the other in ``data``."""
    position = 0
    while position + 8 <= len(data):
        kind, size = _number(data, position), _number(data, position + 4)
        start, step = position + 8, size if kind == _COMPRESSED else -(-size // 8) * 8
        if kind >> 16:  # four bytes of data or less stand in the tag itself
            kind, size, start, step = kind & 0xFFFF, kind >> 16, position + 4, 0
        if start + size > len(data):
            raise _damaged()
        yield kind, data[start : start + size]
        position += 8 + step


def _decompress(data: memoryview, names: Collection[str]) -> memoryview:
    """The array in a compressed element; only its beginning when its name is not wanted."""
    stream = zlib.decompressobj()
    try:
        start = stream.decompress(data, _NAME_BYTES)
        if len(start) < 8 or _number(memoryview(start), 0) != _MATRIX:
            raise _damaged()
        if _name(memoryview(start)[8:]) not in names:
            return memoryview(start)[8:]
        missing = 8 + _number(memoryview(start), 4) - len(start)
        whole = start + stream.decompress(stream.unconsumed_tail, max(1, missing))
        stream.decompress(stream.unconsumed_tail, 1)  # reads the checksum behind the data
    except zlib.error:
        raise _damaged() from None
    if not stream.eof:
        raise _damaged()
    return memoryview(whole)[8:]


def _name(data: memoryview) -> str:
    """The name of an array; ``data`` may end after it."""
    parts = _elements_of_array(data)
    next(parts)
    next(parts)
    kind, name = next(parts)
    if kind != _INT8:
        raise _damaged()
    return bytes(name).decode("ascii")


def _array(data: memoryview) -> npt.NDArray[Any]:
    parts = _elements_of_array(data)
    flags_kind, flags = next(parts)
    dimensions_kind, dimensions = next(parts)
    next(parts)
    if flags_kind != _UINT32 or dimensions_kind != _INT32 or len(flags) != 8:
        raise _damaged()
    word = _number(flags, 0)
    if word & 0xFF not in _NUMERIC_CLASSES or word & _COMPLEX:
        raise ReadError("expected arrays of real numbers; convert the file to NPZ")
    shape = tuple(np.frombuffer(dimensions, "<i4").tolist())
    kind, values = next(parts)
    if kind not in _DTYPES or not shape or min(shape) < 0:
        raise _damaged()
    array = np.frombuffer(values, _DTYPES[kind])
    if math.prod(shape) != array.size:
        raise _damaged()
    return array.reshape(shape, order="F")


def _elements_of_array(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The elements of an array, of which there are at least four."""
    yield from _elements(data)
    raise _damaged()


def _number(data: memoryview, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "little")


def _damaged() -> ReadError:
    return ReadError("the MATLAB file is damaged; download or write it again")
