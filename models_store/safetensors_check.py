"""Check a safetensors file from outside before using any of it.

The format: eight bytes (little endian) with the length of a JSON header, the header
``{name: {"dtype", "shape", "data_offsets": [begin, end]}}``, then the tensors' bytes without gaps.
The check reads the header and the data in pieces, so that memory use does not depend on the size.

The library checks the header of a file that it has in memory or under a path: JSON, dtypes,
offsets, gaps and size. An upload is neither, so these checks are made here as well; tests compare
them with the library's. It does not check at all: repeated names, a large header, further fields of
a tensor, values that are not finite, tied tensors that differ, and what the architecture expects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np

from models_store import errors

Spec = Mapping[str, tuple[Sequence[int], Any]]
#: Groups of names that are one tensor of the network.
Ties = Sequence[Sequence[str]]

_MAX_HEADER_BYTES = 16 << 20
_PIECE_BYTES = 4 << 20
_FORMAT_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_NUMPY_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it; ``begin`` and ``end`` count from the data's start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Readable(Protocol):
    """Anything from which bytes are read sequentially."""

    def read(self, size: int) -> bytes: ...


def check(stream: BinaryIO, size: int, spec: Spec, max_bytes: int, *, tied: Ties = ()) -> None:
    """Raise an ``UploadError`` unless the file holds exactly the tensors of ``spec``, all finite.

    ``stream`` is seekable, at the beginning of the file's ``size`` bytes. ``spec`` is
    {name: (shape, dtype)} with dtypes such as ``"float32"``. Of a group of ``tied`` names the file
    holds at least one; if it holds several, their values must be equal. ``UploadTooLarge``,
    ``NotSafetensors`` and ``UploadMismatch`` are the reasons to refuse.
    """
    if size > max_bytes:
        raise errors.UploadTooLarge(
            f"The file has {size} bytes; at most {max_bytes} are accepted. "
            "Store the weights alone (no optimiser state) in their expected dtype."
        )
    entries, data_start = read_header(stream, size)
    reasons = _differences(entries, spec, tied)
    if not reasons:
        reasons = _non_finite(stream, entries, data_start)
        reasons += _untied(stream, entries, data_start, tied)
    if reasons:
        raise errors.UploadMismatch(reasons)


def read_header(stream: Readable, size: int) -> tuple[dict[str, Entry], int]:
    """Return the entries by name and the position at which the data starts.

    Raise ``NotSafetensors`` if the header does not describe a file of ``size`` bytes.
    """
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise _refuse("it is shorter than eight bytes")
    length = int.from_bytes(prefix, "little")
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise _refuse("the header's length does not fit the file")
    try:
        header = json.loads(stream.read(length).decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _refuse("the header is not JSON, or repeats a name") from error
    if not isinstance(header, dict):
        raise _refuse("the header is not a JSON object")
    _check_metadata(header.pop("__metadata__", {}))
    entries = {name: _entry(name, fields) for name, fields in header.items()}
    _check_layout(entries, size - 8 - length)
    return entries, 8 + length


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("repeated name")
    return found


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _refuse("__metadata__ must map strings to strings")


def _entry(name: str, fields: object) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise _refuse(f"tensor {_short(name)} needs dtype, shape and data_offsets and no more")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _refuse(f"tensor {_short(name)} has a dtype that is not known here")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _refuse(f"tensor {_short(name)} has a malformed shape or data_offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise _refuse(f"tensor {_short(name)} has data_offsets that do not fit its shape")
    return Entry(dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _counts(values: object) -> bool:
    """Return whether this is a short list of integers from 0 up; booleans do not count."""
    return (
        isinstance(values, list)
        and len(values) <= 64
        and all(type(v) is int and 0 <= v < 1 << 48 for v in values)
    )


def _check_layout(entries: dict[str, Entry], data_bytes: int) -> None:
    """Raise unless the tensors cover the data without gap, overlap or unused bytes."""
    position = 0
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != position:
            raise _refuse("the tensors leave a gap or overlap")
        position = entry.end
    if position != data_bytes:
        raise _refuse("the data is cut short or has bytes that belong to no tensor")


def _differences(entries: dict[str, Entry], spec: Spec, tied: Ties) -> list[str]:
    held_otherwise = {name for names in tied if entries.keys() & set(names) for name in names}
    reasons = [
        f"{_short(name)} is missing"
        for name in spec
        if name not in entries and name not in held_otherwise
    ]
    for name, entry in entries.items():
        if name not in spec:
            reasons.append(f"{_short(name)} is unexpected")
            continue
        shape, dtype = tuple(spec[name][0]), _format_name(spec[name][1])
        if entry.shape != shape:
            reasons.append(f"{_short(name)} has shape {list(entry.shape)}, expected {list(shape)}")
        if entry.dtype != dtype:
            reasons.append(f"{_short(name)} has dtype {entry.dtype}, expected {dtype}")
    return reasons


def _format_name(dtype: object) -> str:
    """Return the format's name of a dtype: ``"float32"``, ``torch.float32`` or a numpy dtype."""
    return _FORMAT_NAMES[str(dtype).removeprefix("torch.")]


def _non_finite(stream: BinaryIO, entries: dict[str, Entry], data_start: int) -> list[str]:
    return [
        f"{_short(name)} holds NaN or infinity"
        for name, entry in entries.items()
        if not _is_finite(stream, entry, data_start)
    ]


def _untied(stream: BinaryIO, entries: dict[str, Entry], data_start: int, tied: Ties) -> list[str]:
    """Return names that are one tensor in the network but have different values in the file."""
    reasons = []
    for names in tied:
        held = [name for name in names if name in entries]
        first = next(iter(held), None)
        reasons += [
            f"{_short(name)} and {_short(str(first))} are one tensor of this model "
            "and hold different values"
            for name in held[1:]
            if not _same_bytes(stream, entries[str(first)], entries[name], data_start)
        ]
    return reasons


def _same_bytes(stream: BinaryIO, one: Entry, other: Entry, data_start: int) -> bool:
    for position in range(0, one.end - one.begin, _PIECE_BYTES):
        pieces = []
        for entry in (one, other):
            stream.seek(data_start + entry.begin + position)
            pieces.append(stream.read(min(_PIECE_BYTES, entry.end - entry.begin - position)))
        if pieces[0] != pieces[1]:
            return False
    return True


def _is_finite(stream: BinaryIO, entry: Entry, data_start: int) -> bool:
    stream.seek(data_start + entry.begin)
    left = entry.end - entry.begin
    while left:
        piece = stream.read(min(left, _PIECE_BYTES))
        if not piece:
            raise _refuse("the file became shorter while it was read")
        left -= len(piece)
        if entry.dtype in _NUMPY_FLOATS:
            finite = bool(np.isfinite(np.frombuffer(piece, _NUMPY_FLOATS[entry.dtype])).all())
        elif entry.dtype == "BF16":
            # numpy has no bfloat16: NaN and infinity are the values with all exponent bits set.
            finite = not bool((np.frombuffer(piece, "<u2") & 0x7F80 == 0x7F80).any())
        else:
            finite = True
        if not finite:
            return False
    return True


def _short(name: str) -> str:
    """Return an external name, made safe and short enough for a message."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _refuse(reason: str) -> errors.NotSafetensors:
    return errors.NotSafetensors(
        f"Not a usable safetensors file: {reason}. "
        "Write it with safetensors.torch.save_model(model, path)."
    )
