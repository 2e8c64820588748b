"""Properties of a dataset's rows in every store: their digests, key, and checks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models_store import errors, names
from models_store.protocols import DIGEST_BYTES, DTYPES, SPLITS, Numbers


def row_digests(rows: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """Yield the digests of rows (k, *shape) with their labels (k,): 16 bytes of a SHA-256 each."""
    flat = rows.reshape(len(rows), -1).view(np.uint8)
    for row, label in zip(flat, labels.tolist(), strict=True):
        digest = hashlib.sha256(row.data)
        digest.update(label.to_bytes(8, "little", signed=True))
        yield digest.digest()[:DIGEST_BYTES]


def check_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return ``dtype`` as numpy's; raise ``InvalidRows`` unless it is one of ``DTYPES``."""
    found = np.dtype(dtype)
    if found.name not in DTYPES:
        known = ", ".join(DTYPES)
        raise errors.InvalidRows(f"Rows are one of {known}, not {found}; convert them first.")
    return found


def check_positions(rows: Numbers, count: int) -> list[int]:
    """Return ``rows`` sorted, each once; raise ``InvalidRows`` unless all are below ``count``."""
    positions = sorted({int(row) for row in rows})
    if positions and not 0 <= positions[0] <= positions[-1] < count:
        raise errors.InvalidRows(
            f"Row {positions[0] if positions[0] < 0 else positions[-1]} does not exist: "
            f"the array has {count} rows. Nothing was done."
        )
    return positions


class Notes:
    """Labels and digests of the rows that a writer has received."""

    def __init__(self, *, name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
        self.name, self.dtype, self.shape = name, dtype, tuple(int(size) for size in shape)
        self._labels: list[npt.NDArray[np.int64]] = []
        self._digests = bytearray()

    def add(
        self, rows: npt.NDArray[Any], labels: npt.NDArray[np.integer[Any]]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return rows and labels as they are stored; raise ``InvalidRows`` if they do not fit.

        Rows are row-major, labels int64.
        """
        if rows.dtype != self.dtype or rows.shape[1:] != self.shape or len(rows) != len(labels):
            raise errors.InvalidRows(
                f"Expected rows ({len(labels)}, *{self.shape}) of {self.dtype}, "
                f"got {rows.shape} of {rows.dtype}."
            )
        raw, numbers = np.ascontiguousarray(rows), np.asarray(labels).astype(np.int64, copy=False)
        self._labels.append(numbers)
        self._digests += b"".join(row_digests(raw, numbers))
        return raw, numbers

    def labels(self, splits: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.int64]:
        """Return all labels (n,), checked together with ``splits``; call it once."""
        labels = np.concatenate([np.empty(0, np.int64), *self._labels])
        self._labels.clear()
        if not len(labels):
            raise errors.InvalidRows("The dataset has no rows; give at least one.")
        if splits.dtype != np.uint8 or splits.shape != labels.shape or splits.max() >= len(SPLITS):
            raise errors.InvalidRows(f"Splits are (n,) uint8 below {len(SPLITS)}, one per row.")
        if labels.min() < 0 or labels.max() >= classes:
            raise errors.InvalidRows(f"Labels must lie in 0..{classes - 1}.")
        return labels

    def digests(self) -> npt.NDArray[np.uint8]:
        """Return the digests of all rows, (n, 16) uint8."""
        return np.frombuffer(self._digests, np.uint8).reshape(-1, DIGEST_BYTES)

    def manifest(
        self, splits: npt.NDArray[np.uint8], classes: int, source: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the manifest; its ``key`` covers every row and all facts but the source."""
        digests = self.digests()
        facts = {
            "name": self.name,
            "dtype": str(self.dtype),
            "shape": list(self.shape),
            "classes": classes,
            "rows": len(digests),
            "splits_sha256": hashlib.sha256(splits.tobytes()).hexdigest(),
        }
        hashed = hashlib.sha256(names.canonical(facts))
        hashed.update(digests.data)
        return {**facts, "key": hashed.hexdigest(), "source": source}


class Checker:
    """Compares the rows of a dataset, block by block, with their digests."""

    def __init__(self, key: str) -> None:
        self._key, self._next = key, 0

    def check(
        self,
        rows: npt.NDArray[Any],
        labels: npt.NDArray[np.int64],
        digests: npt.NDArray[np.uint8],
    ) -> None:
        """Check the next k rows; raise ``CorruptArray`` unless each is as ingested or erased."""
        found = np.frombuffer(b"".join(row_digests(rows, labels)), np.uint8)
        wrong = (found.reshape(-1, DIGEST_BYTES) != digests).any(axis=1)
        gone = ~digests.any(axis=1)
        unfinished = rows.reshape(len(rows), -1).any(axis=1) | (labels != 0)
        if (gone & unfinished).any():
            row = self._next + int(np.flatnonzero(gone & unfinished)[0])
            raise damaged(self._key, f"the erasure of row {row} is unfinished; repeat it")
        if (wrong & ~gone).any():
            row = self._next + int(np.flatnonzero(wrong & ~gone)[0])
            raise damaged(self._key, f"row {row} was changed")
        self._next += len(rows)


def refuse_erased(count: int) -> None:
    """Raise ``ErasedContent`` if rows of the dataset that is stored already were erased."""
    if count:
        raise errors.ErasedContent(
            f"This dataset is stored already and {count} of its rows have been erased since; "
            "storing it again would bring them back. Remove them from the source and use a new "
            "dataset name."
        )


def damaged(key: str, reason: str) -> errors.CorruptArray:
    """Return the error for a dataset whose stored rows differ from what was written."""
    return errors.CorruptArray(
        f"arrays/{key} is damaged: {reason}. "
        "Restore it from a backup, or ingest the dataset under a new name."
    )
