"""Named tensors as safetensors blobs, written and read without a second copy in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from models_store import errors, safetensors_check
from models_store.protocols import Blobs, Kind, Saved

_FORMAT_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}
_DTYPES = {name: np.dtype(dtype) for dtype, name in _FORMAT_NAMES.items()}
#: Order in which the safetensors library lays out tensors: widest dtype first.
_WIDEST_FIRST = ("U64", "I64", "F64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8", "BOOL")
_HEADER_ALIGNMENT = 8


def save(
    blobs: Blobs, tensors: Mapping[str, npt.NDArray[Any]], manifest: dict[str, Any], *, kind: Kind
) -> Saved:
    """Store ``tensors`` by name; see ``Blobs.put``."""
    return blobs.put(kind, Serialized(tensors), manifest)


def described(tensors: Mapping[str, npt.NDArray[Any]]) -> Saved:
    """Return what :func:`save` returns for these tensors, without storing them."""
    content, hashed = Serialized(tensors), hashlib.sha256()
    for piece in content.pieces():
        hashed.update(piece)
    return Saved(digest=hashed.hexdigest(), size_bytes=content.size_bytes)


def load(blobs: Blobs, digest: str, *, kind: Kind) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of ``digest`` by name, each with its own memory.

    Raise ``CorruptCheckpoint`` unless manifest and bytes are what was stored.
    """
    size = blobs.size(kind, digest)
    with blobs.open(kind, digest) as stream:
        try:
            return _read(_Hashing(stream), size, digest)
        except (errors.NotSafetensors, OSError) as error:
            raise _damaged(kind, digest) from error
        except _WrongDigest:
            raise _damaged(kind, digest) from None


class Serialized:
    """Tensors as the file that the safetensors library would write; a ``Content``."""

    def __init__(self, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        described = [(_format_name(name, tensor), name) for name, tensor in tensors.items()]
        described.sort(key=lambda one: (_WIDEST_FIRST.index(one[0]), one[1]))
        # Row-major copies, because the bytes of a view or a transposed array have another order.
        self._tensors = [np.asarray(tensors[name], order="C") for _, name in described]
        header, position = {}, 0
        for (dtype, name), tensor in zip(described, self._tensors, strict=True):
            end = position + tensor.nbytes
            header[name] = {
                "dtype": dtype,
                "shape": list(tensor.shape),
                "data_offsets": [position, end],
            }
            position = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _HEADER_ALIGNMENT)
        self._header = len(text).to_bytes(8, "little") + text
        self.size_bytes = len(self._header) + position

    def pieces(self) -> Iterator[memoryview]:
        """Yield the file's bytes: the header, then each tensor's."""
        yield memoryview(self._header)
        for tensor in self._tensors:
            if tensor.nbytes:
                yield tensor.reshape(-1).view(np.uint8).data


class _Hashing:
    """Reads a stream and hashes what it reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hashed = hashlib.sha256()

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self._hashed.update(piece)
        return piece

    def readinto(self, buffer: memoryview) -> None:
        """Fill the buffer; raise ``NotSafetensors`` if the stream ends before."""
        while buffer:
            count = self._stream.readinto(buffer[: 1 << 20])  # type: ignore[attr-defined]  # both kinds of stream have it
            if not count:
                raise errors.NotSafetensors("The bytes end before the last tensor.")
            self._hashed.update(buffer[:count])
            buffer = buffer[count:]

    def hexdigest(self) -> str:
        while piece := self._stream.read(1 << 20):
            self._hashed.update(piece)
        return self._hashed.hexdigest()


class _WrongDigest(Exception):
    """The bytes have another digest."""


def _read(stream: _Hashing, size: int, digest: str) -> dict[str, npt.NDArray[Any]]:
    entries, _ = safetensors_check.read_header(stream, size)
    found: dict[str, npt.NDArray[Any]] = {}
    for name, entry in sorted(entries.items(), key=lambda one: (one[1].begin, one[1].end)):
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise errors.NotSafetensors(f"Tensors of {entry.dtype} are never stored.")
        tensor = np.empty(entry.shape, dtype.newbyteorder("<"))
        if tensor.nbytes:
            stream.readinto(tensor.reshape(-1).view(np.uint8).data)
        found[name] = tensor
    if stream.hexdigest() != digest:
        raise _WrongDigest
    return found


def _format_name(name: str, tensor: npt.NDArray[Any]) -> str:
    found = _FORMAT_NAMES.get(tensor.dtype.name)
    if found is None:
        raise ValueError(f"Tensor {name!r} has dtype {tensor.dtype}, which safetensors lacks.")
    return found


def _damaged(kind: Kind, digest: str) -> errors.CorruptCheckpoint:
    return errors.damaged_blob(kind, digest)
