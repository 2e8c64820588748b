"""Dataset arrays: rows that can be memory-mapped, and erased in place.

``<root>/arrays/<key>/`` holds

- ``rows.npy``    (n, *shape) uint8 or float32, raw as it came;
- ``labels.npy``  (n,) int64;
- ``splits.npy``  (n,) uint8: 0 train, 1 validation, 2 audit;
- ``digests.npy`` (n, 16) uint8: the start of sha256(row, label) of every row;
- ``manifest.json``: name, dtype, shape, classes, number of rows, where they came from.

The key is the sha256 of the manifest's facts, the split and the row digests, as they were when the
dataset was ingested; it covers the dataset's name, so two datasets never share rows. Erasing a row
zeroes its digest first (a digest would let a guess of the row be confirmed) and then the row and
its label: an interrupted erasure is visible to ``verify`` and finished by repeating it. Opening
reads no rows; ``verify`` reads them all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from models_store import errors, files

SPLITS = ("train", "validation", "audit")
DIGEST_BYTES = 16

_ROWS, _LABELS, _SPLIT, _DIGESTS = "rows.npy", "labels.npy", "splits.npy", "digests.npy"
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class Array:
    """An open dataset array; the arrays are read-only maps of the files, not copies.

    ``rows`` (n, *shape) uint8 or float32, ``labels`` (n,) int64, ``splits`` (n,) uint8 with the
    positions in ``SPLITS``.
    """

    key: str
    rows: np.memmap[Any, np.dtype[Any]]
    labels: np.memmap[Any, np.dtype[np.int64]]
    splits: np.memmap[Any, np.dtype[np.uint8]]
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Written:
    """What ``Writer.finish`` stored."""

    key: str
    rows: int
    size_bytes: int


@contextlib.contextmanager
def writer(
    root: Path, *, name: str, dtype: npt.DTypeLike, shape: Sequence[int]
) -> Iterator[Writer]:
    """Write a dataset chunk by chunk; without ``finish`` nothing of it stays.

    ``dtype`` is uint8 or float32, ``shape`` that of one row.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
        raise errors.InvalidRows(f"Rows are uint8 or float32, not {dtype}; convert them first.")
    home = _home(root)
    with files.building(home) as new:
        stream = _rows_file(new, dtype, shape)
        try:
            yield Writer(new, stream, name=name, dtype=dtype, shape=tuple(int(s) for s in shape))
        finally:
            with contextlib.suppress(OSError):  # a full disk was reported by the write itself
                stream.close()


class Writer:
    """A dataset that is being written: ``append`` chunks, then ``finish`` once."""

    def __init__(
        self,
        directory: Path,
        stream: BinaryIO,
        *,
        name: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
    ) -> None:
        self._directory, self._stream = directory, stream
        self._name, self._dtype, self._shape = name, dtype, shape
        self._labels: list[npt.NDArray[np.int64]] = []
        self._digests = bytearray()

    def append(self, rows: npt.NDArray[Any], labels: npt.NDArray[np.integer[Any]]) -> None:
        """Add ``rows`` (k, *shape) in the writer's dtype and their ``labels`` (k,) integers."""
        if rows.dtype != self._dtype or rows.shape[1:] != self._shape or len(rows) != len(labels):
            raise errors.InvalidRows(
                f"Expected rows ({len(labels)}, *{self._shape}) of {self._dtype}, "
                f"got {rows.shape} of {rows.dtype}."
            )
        if not len(rows):
            return
        raw, numbers = np.ascontiguousarray(rows), np.asarray(labels).astype(np.int64, copy=False)
        with files.writing(self._directory.parent):
            self._stream.write(raw.data)
        self._labels.append(numbers)
        self._digests += b"".join(row_digests(raw, numbers))

    def finish(
        self, *, splits: npt.NDArray[np.uint8], classes: int, source: dict[str, Any]
    ) -> Written:
        """Store what was appended under its key; ``splits`` (n,) uint8, ``source`` is JSON.

        The same dataset stored twice is one array. It is refused when rows of the stored one have
        been erased since: they would come back.
        """
        labels = np.concatenate([np.empty(0, np.int64), *self._labels])
        self._labels.clear()
        self._check(labels, splits, classes)
        with files.writing(self._directory.parent):
            self._stream.seek(0)
            self._stream.write(_header(self._dtype, (len(labels), *self._shape)))
            self._stream.flush()
            digests = np.frombuffer(self._digests, np.uint8).reshape(-1, DIGEST_BYTES)
            np.save(self._directory / _LABELS, labels, allow_pickle=False)
            np.save(self._directory / _SPLIT, splits, allow_pickle=False)
            np.save(self._directory / _DIGESTS, digests, allow_pickle=False)
            key = self._write_manifest(digests, splits, classes, source)
            size = sum(file.stat().st_size for file in self._directory.iterdir())
            _publish(self._directory, key, n=len(labels))
        return Written(key=key, rows=len(labels), size_bytes=size)

    def _check(
        self, labels: npt.NDArray[np.int64], splits: npt.NDArray[np.uint8], classes: int
    ) -> None:
        if not len(labels):
            raise errors.InvalidRows("The dataset has no rows; give at least one.")
        if splits.dtype != np.uint8 or splits.shape != labels.shape or splits.max() >= len(SPLITS):
            raise errors.InvalidRows(f"Splits are (n,) uint8 below {len(SPLITS)}, one per row.")
        if labels.min() < 0 or labels.max() >= classes:
            raise errors.InvalidRows(f"Labels must lie in 0..{classes - 1}.")

    def _write_manifest(
        self,
        digests: npt.NDArray[np.uint8],
        splits: npt.NDArray[np.uint8],
        classes: int,
        source: dict[str, Any],
    ) -> str:
        facts = {
            "name": self._name,
            "dtype": str(self._dtype),
            "shape": list(self._shape),
            "classes": classes,
            "rows": len(digests),
            "splits_sha256": hashlib.sha256(splits.tobytes()).hexdigest(),
        }
        hashed = hashlib.sha256(files.canonical(facts))
        hashed.update(digests.data)
        key = hashed.hexdigest()
        files.write_manifest(self._directory, {**facts, "key": key, "source": source})
        return key


def open(root: Path, key: str) -> Array:
    """Memory-map an array; costs the same for any number of rows."""
    directory = files.find(_home(root), key)
    manifest = _manifest(directory)
    n, dtype = manifest["rows"], np.dtype(manifest["dtype"])
    return Array(
        key=key,
        rows=_map(directory / _ROWS, dtype, (n, *manifest["shape"])),
        labels=_map(directory / _LABELS, np.dtype(np.int64), (n,)),
        splits=_map(directory / _SPLIT, np.dtype(np.uint8), (n,)),
        manifest=manifest,
    )


def erased(root: Path, key: str) -> npt.NDArray[np.int64]:
    """Positions of the rows that have been overwritten, sorted, (k,) int64."""
    array = open(root, key)
    digests = _digests(files.find(_home(root), key), len(array))
    return np.flatnonzero(~digests.any(axis=1))


def digests(root: Path, key: str) -> npt.NDArray[np.uint8]:
    """Digest of every row as it was ingested, (n, 16) uint8; zeros where a row was overwritten."""
    return _digests(files.find(_home(root), key), len(open(root, key)))


def overwrite(root: Path, key: str, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
    """Zero the digests, the raw bytes and the labels of ``rows`` in place and flush them.

    May be repeated, and must be after an interruption. The split of the rows stays.
    """
    directory = files.find(_home(root), key)
    array = open(root, key)
    positions = sorted({int(row) for row in rows})
    if positions and not 0 <= positions[0] <= positions[-1] < len(array):
        raise errors.InvalidRows(
            f"Row {positions[0] if positions[0] < 0 else positions[-1]} does not exist: "
            f"the array has {len(array)} rows. Nothing was overwritten."
        )
    row_bytes = math.prod(array.rows.shape[1:]) * array.rows.dtype.itemsize
    with files.writing(directory):
        # The digest goes first: from then on the row counts as erased, whatever happens.
        _zero(directory / _DIGESTS, positions, DIGEST_BYTES)
        _zero(directory / _ROWS, positions, row_bytes)
        _zero(directory / _LABELS, positions, np.dtype(np.int64).itemsize)


def verify(root: Path, key: str) -> None:
    """Raise ``CorruptArray`` unless every row is as ingested or erased completely. Reads it all."""
    _verify(files.find(_home(root), key), key)


def exists(root: Path, key: str) -> bool:
    """Whether a complete array is stored under ``key``."""
    return (_home(root) / files.check_name(key)).is_dir()


def keys(root: Path) -> list[str]:
    """Every complete array, sorted."""
    return files.names(_home(root))


def destroy(root: Path, key: str) -> bool:
    """Overwrite everything with zeros and unlink; False when nothing was there. May be repeated."""
    return files.destroy(_home(root), key)


def sweep(root: Path, keep: Collection[str], older_than_seconds: float) -> list[str]:
    """Remove leftovers of crashes and arrays not in ``keep``, once they are old enough."""
    return files.sweep(_home(root), keep=keep, older_than_seconds=older_than_seconds)


def _home(root: Path) -> Path:
    return Path(root) / "arrays"


def _rows_file(directory: Path, dtype: np.dtype[Any], shape: Sequence[int]) -> BinaryIO:
    with files.writing(directory.parent):
        stream = (directory / _ROWS).open("w+b")
        stream.write(_header(dtype, (0, *shape)))
    return stream


def _header(dtype: np.dtype[Any], shape: Sequence[int]) -> bytes:
    """A npy header; numpy pads it so that another number of rows takes the same space."""
    buffer = io.BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": tuple(int(s) for s in shape),
    }
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def row_digests(rows: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """Digests of rows (k, *shape) with their labels (k,), as an array keeps them."""
    flat = rows.reshape(len(rows), -1).view(np.uint8)
    for row, label in zip(flat, labels.tolist(), strict=True):
        digest = hashlib.sha256(row.data)
        digest.update(label.to_bytes(8, "little", signed=True))
        yield digest.digest()[:DIGEST_BYTES]


def _publish(new: Path, key: str, *, n: int) -> None:
    """Give a written array its name, or leave it when a sound one has that name already."""
    if files.publish(new, key):
        return
    present = new.parent / key
    files.touch(present)
    gone = int((~_digests(present, n).any(axis=1)).sum())
    if gone:
        raise errors.ErasedContent(
            f"This dataset is stored already and {gone} of its rows have been erased since; "
            "storing it again would bring them back. Remove them from the source and use a new "
            "dataset name."
        )
    try:
        _verify(present, key)
    except errors.CorruptArray:
        files.set_aside(present)
        files.publish(new, key)


def _manifest(directory: Path) -> dict[str, Any]:
    manifest = files.read_manifest(directory, corrupt=errors.CorruptArray)
    if manifest.get("key") != directory.name:
        raise _damaged(directory, "the manifest belongs to another array")
    return manifest


def _map(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Map a file whose header and size are what the manifest promises."""
    header = _header(dtype, shape)
    try:
        with file.open("rb") as stream:
            fits = stream.read(len(header)) == header
        if fits and file.stat().st_size == len(header) + math.prod(shape) * dtype.itemsize:
            return np.memmap(file, dtype=dtype, mode="r", offset=len(header), shape=shape)
    except OSError as error:
        raise _damaged(file.parent, f"{file.name} cannot be read") from error
    raise _damaged(file.parent, f"{file.name} does not fit the manifest")


def _digests(directory: Path, n: int) -> npt.NDArray[np.uint8]:
    return np.asarray(_map(directory / _DIGESTS, np.dtype(np.uint8), (n, DIGEST_BYTES)))


def _zero(file: Path, positions: list[int], item_bytes: int) -> None:
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
    nothing = bytes(item_bytes)
    files.write_at(file, [(start + row * item_bytes, nothing) for row in positions])


def _verify(directory: Path, key: str) -> None:
    array = open(directory.parent.parent, key)
    digests = _digests(directory, len(array))
    splits = hashlib.sha256(array.splits.tobytes()).hexdigest()
    if splits != array.manifest["splits_sha256"]:
        raise _damaged(directory, f"{_SPLIT} was changed")
    step = max(1, _BLOCK_BYTES // max(1, array.rows[:1].nbytes))
    for start in range(0, len(array), step):
        here = slice(start, start + step)
        rows, labels = np.asarray(array.rows[here]), np.asarray(array.labels[here])
        found = np.frombuffer(b"".join(row_digests(rows, labels)), np.uint8)
        expected = digests[here]
        wrong = (found.reshape(-1, DIGEST_BYTES) != expected).any(axis=1)
        gone = ~expected.any(axis=1)
        unfinished = rows.reshape(len(rows), -1).any(axis=1) | (labels != 0)
        if (gone & unfinished).any():
            row = start + int(np.flatnonzero(gone & unfinished)[0])
            raise _damaged(directory, f"the erasure of row {row} is unfinished; repeat it")
        if (wrong & ~gone).any():
            row = start + int(np.flatnonzero(wrong & ~gone)[0])
            raise _damaged(directory, f"row {row} was changed")


def _damaged(directory: Path, reason: str) -> errors.CorruptArray:
    return errors.CorruptArray(
        f"arrays/{directory.name} is damaged: {reason}. "
        "Restore it from a backup, or ingest the dataset under a new name."
    )
