"""Rows as files that can be memory-mapped and erased in place.

``<root>/arrays/<key>/`` holds

- ``rows.npy``    (n, *shape) uint8, float32 or int32, unchanged from the source;
- ``labels.npy``  (n,) int64;
- ``splits.npy``  (n,) uint8: 0 train, 1 validation, 2 audit;
- ``digests.npy`` (n, 16) uint8: the start of sha256(row, label) of every row;
- ``manifest.json``: name, dtype, shape, classes, number of rows, where they came from.

The key is the SHA-256 of the manifest's facts, the splits and the row digests, as they were when
the dataset was ingested; it covers the dataset's name, so two datasets never share rows. Erasing a
row zeroes its digest first (a digest would let a guess of the row be confirmed) and then the row
and its label: an interrupted erasure is visible to ``verify`` and finished by repeating it. Opening
reads no rows; ``verify`` reads them all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from models_store import errors, names, row_facts
from models_store.local import directories
from models_store.protocols import DIGEST_BYTES, Array, Numbers, Written

_ROWS, _LABELS, _SPLIT, _DIGESTS = "rows.npy", "labels.npy", "splits.npy", "digests.npy"
_BLOCK_BYTES = 16 << 20


class LocalRows:
    """See ``models_store.protocols.Rows``."""

    def __init__(self, root: Path) -> None:
        self._home = root / "arrays"

    @contextlib.contextmanager
    def writer(
        self, *, name: str, dtype: npt.DTypeLike, shape: Sequence[int]
    ) -> Iterator[LocalWriter]:
        notes = row_facts.Notes(name=name, dtype=row_facts.check_dtype(dtype), shape=shape)
        with directories.building(self._home) as new:
            stream = _rows_file(new, notes)
            try:
                yield LocalWriter(new, stream, notes)
            finally:
                with contextlib.suppress(OSError):  # the write itself has reported a full disk
                    stream.close()

    def open(self, key: str, *, beside: Collection[str] = ()) -> Array:
        """Memory-map the rows, copy-on-write; constant time in the number of rows."""
        return _open(directories.find(self._home, key))

    def read(self, key: str, rows: Numbers) -> npt.NDArray[Any]:
        array = _open(directories.find(self._home, key))
        row_facts.check_positions(rows, len(array))
        return np.array(array.rows[np.asarray(rows, np.int64)])

    def erased(self, key: str) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~self._digests(key).any(axis=1))

    def digests(self, key: str, rows: Numbers) -> npt.NDArray[np.uint8]:
        return np.asarray(self._digests(key)[np.asarray(rows, np.int64)])

    def erase(self, key: str, rows: Numbers) -> None:
        """Zero the digests, the bytes and the labels of ``rows`` in place and flush them."""
        directory = directories.find(self._home, key)
        array = _open(directory)
        positions = row_facts.check_positions(rows, len(array))
        row_bytes = math.prod(array.rows.shape[1:]) * array.rows.dtype.itemsize
        with directories.writing(directory):
            # The digest first: from then on the row counts as erased, even after a crash.
            _zero(directory / _DIGESTS, positions, DIGEST_BYTES)
            _zero(directory / _ROWS, positions, row_bytes)
            _zero(directory / _LABELS, positions, np.dtype(np.int64).itemsize)

    def verify(self, key: str) -> None:
        _verify(directories.find(self._home, key))

    def exists(self, key: str) -> bool:
        return (self._home / names.check_digest(key)).is_dir()

    def keys(self) -> list[str]:
        return directories.names_in(self._home)

    def name(self, key: str) -> str:
        return str(_manifest(directories.find(self._home, key))["name"])

    def delete(self, key: str) -> bool:
        """Overwrite everything with zeros and unlink it."""
        return directories.destroy(self._home, key)

    def sweep(self, *, keep: Collection[str], older_than_seconds: float) -> list[str]:
        return directories.sweep(self._home, keep=keep, older_than_seconds=older_than_seconds)

    def _digests(self, key: str) -> npt.NDArray[np.uint8]:
        directory = directories.find(self._home, key)
        return _digests(directory, _manifest(directory)["rows"])


class LocalWriter:
    """See ``models_store.protocols.RowWriter``."""

    def __init__(self, directory: Path, stream: BinaryIO, notes: row_facts.Notes) -> None:
        self._directory, self._stream, self._notes = directory, stream, notes

    def append(self, rows: npt.NDArray[Any], labels: npt.NDArray[np.integer[Any]]) -> None:
        raw, _ = self._notes.add(rows, labels)
        if not len(raw):
            return
        with directories.writing(self._directory.parent):
            self._stream.write(raw.data)

    def finish(
        self, *, splits: npt.NDArray[np.uint8], classes: int, source: dict[str, Any]
    ) -> Written:
        labels = self._notes.labels(splits, classes)
        manifest = self._notes.manifest(splits, classes, source)
        with directories.writing(self._directory.parent):
            self._stream.seek(0)
            self._stream.write(_header(self._notes.dtype, (len(labels), *self._notes.shape)))
            self._stream.flush()
            np.save(self._directory / _LABELS, labels, allow_pickle=False)
            np.save(self._directory / _SPLIT, splits, allow_pickle=False)
            np.save(self._directory / _DIGESTS, self._notes.digests(), allow_pickle=False)
            directories.write_manifest(self._directory, manifest)
            size = sum(file.stat().st_size for file in self._directory.iterdir())
            _publish(self._directory, manifest["key"], n=len(labels))
        return Written(key=manifest["key"], rows=len(labels), size_bytes=size)


def _open(directory: Path) -> Array:
    manifest = _manifest(directory)
    n, dtype = manifest["rows"], np.dtype(manifest["dtype"])
    return Array(
        key=directory.name,
        rows=_map(directory / _ROWS, dtype, (n, *manifest["shape"])),
        labels=_map(directory / _LABELS, np.dtype(np.int64), (n,)),
        splits=_map(directory / _SPLIT, np.dtype(np.uint8), (n,)),
        manifest=manifest,
    )


def _rows_file(directory: Path, notes: row_facts.Notes) -> BinaryIO:
    with directories.writing(directory.parent):
        stream = (directory / _ROWS).open("w+b")
        stream.write(_header(notes.dtype, (0, *notes.shape)))
    return stream


def _header(dtype: np.dtype[Any], shape: Sequence[int]) -> bytes:
    """Return an npy header; numpy pads it so that another number of rows needs the same space."""
    buffer = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": tuple(int(s) for s in shape),
    }
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _publish(new: Path, key: str, *, n: int) -> None:
    """Rename a written array to its key, unless an intact one has that name already."""
    if directories.publish(new, key):
        return
    present = new.parent / key
    directories.touch(present)
    row_facts.refuse_erased(int((~_digests(present, n).any(axis=1)).sum()))
    try:
        _verify(present)
    except errors.CorruptArray:
        directories.set_aside(present)
        directories.publish(new, key)


def _manifest(directory: Path) -> dict[str, Any]:
    manifest = directories.read_manifest(directory, corrupt=errors.CorruptArray)
    if manifest.get("key") != directory.name:
        raise row_facts.damaged(directory.name, "the manifest belongs to another array")
    return manifest


def _map(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Map a file whose header and size agree with the manifest.

    Copy-on-write: an accidental write stays in the reader's memory and never reaches the file.
    """
    header = _header(dtype, shape)
    try:
        with file.open("rb") as stream:
            fits = stream.read(len(header)) == header
        if fits and file.stat().st_size == len(header) + math.prod(shape) * dtype.itemsize:
            return np.memmap(file, dtype=dtype, mode="c", offset=len(header), shape=shape)
    except OSError as error:
        raise row_facts.damaged(file.parent.name, f"{file.name} cannot be read") from error
    raise row_facts.damaged(file.parent.name, f"{file.name} does not fit the manifest")


def _digests(directory: Path, n: int) -> npt.NDArray[np.uint8]:
    return np.asarray(_map(directory / _DIGESTS, np.dtype(np.uint8), (n, DIGEST_BYTES)))


def _zero(file: Path, positions: list[int], item_bytes: int) -> None:
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
    nothing = bytes(item_bytes)
    directories.write_at(file, [(start + row * item_bytes, nothing) for row in positions])


def _verify(directory: Path) -> None:
    array = _open(directory)
    digests = _digests(directory, len(array))
    if hashlib.sha256(array.splits.tobytes()).hexdigest() != array.manifest["splits_sha256"]:
        raise row_facts.damaged(array.key, f"{_SPLIT} was changed")
    step = max(1, _BLOCK_BYTES // max(1, array.rows[:1].nbytes))
    checker = row_facts.Checker(array.key)
    for start in range(0, len(array), step):
        here = slice(start, start + step)
        checker.check(np.asarray(array.rows[here]), np.asarray(array.labels[here]), digests[here])
