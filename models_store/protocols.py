"""Protocols of a store, whatever it keeps its bytes in.

A store has two parts. *Blobs* are immutable and named by the SHA-256 of their bytes: checkpoints,
caches, running sums, logs, scores, margins, statistics, states of trainings, tokenizers, encoders.
*Rows* are the datasets: written once, then only read, or erased row by row. Errors are those of
``models_store.errors``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

Kind = Literal[
    "checkpoints",
    "caches",
    "states",
    "logs",
    "scores",
    "margins",
    "statistics",
    "trainings",
    "tokenizers",
    "encoders",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

SPLITS = ("train", "validation", "audit")
DIGEST_BYTES = 16

#: Dtypes in which rows are stored.
DTYPES = ("uint8", "float32", "int32")

Numbers = Sequence[int] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Saved:
    """``digest`` is the SHA-256 of the bytes and their name in the store."""

    digest: str
    size_bytes: int


class Content(Protocol):
    """Bytes to store; ``pieces`` may be called more than once and gives the same bytes."""

    @property
    def size_bytes(self) -> int: ...

    def pieces(self) -> Iterator[memoryview]: ...


class Blobs(Protocol):
    """Immutable bytes by kind and digest, each with a manifest (any JSON)."""

    def put(self, kind: Kind, content: Content, manifest: dict[str, Any]) -> Saved:
        """Store ``content`` under its digest; it appears complete or not at all.

        Storing the same bytes again is harmless: the first manifest is kept, and a damaged copy is
        replaced. Raise ``Unavailable`` when the store cannot be written now.
        """

    def open(self, kind: Kind, digest: str, start: int = 0, stop: int | None = None) -> BinaryIO:
        """Open the bytes from ``start`` to before ``stop`` for reading; they are not checked here.

        Raise ``NotStored`` if nothing complete has this name, ``Corrupt`` if it is damaged.
        """

    def size(self, kind: Kind, digest: str) -> int:
        """Return the blob's size in bytes."""

    def manifest(self, kind: Kind, digest: str) -> dict[str, Any]:
        """Return the manifest with which the blob was first stored."""

    def verify(self, kind: Kind, digest: str) -> None:
        """Raise ``CorruptCheckpoint`` unless manifest and bytes are those stored."""

    def exists(self, kind: Kind, digest: str) -> bool:
        """Return whether a complete blob is stored under the digest."""

    def digests(self, kind: Kind) -> list[str]:
        """Return the digests of all complete blobs of this kind, sorted."""

    def unlink(self, kind: Kind, digest: str) -> bool:
        """Take the blob out of the store at once; False if there was none.

        ``discard`` destroys what it leaves. What is stored under the digest afterwards is another
        copy, which neither call touches any more.
        """

    def discard(self, kind: Kind, digest: str) -> None:
        """Destroy the bytes that ``unlink`` has left. May be repeated."""

    def delete(self, kind: Kind, digest: str) -> bool:
        """Destroy the blob; False if there was none. May be repeated."""

    def old(self, kind: Kind, *, seconds: float) -> list[str]:
        """Return the digests of complete blobs that were last put at least so long ago, sorted.

        A put of bytes that were stored already counts.
        """

    def sweep(self, kind: Kind, *, keep: Collection[str], older_than_seconds: float) -> list[str]:
        """Destroy leftovers of interrupted calls and blobs not in ``keep``, if they are old enough.

        Age counts as in ``old``. Return the names.
        """


@dataclass(frozen=True)
class Array:
    """The rows of a dataset, private to the reader: changes to them are never stored.

    ``rows`` (n, *shape) of one of ``DTYPES``, ``labels`` (n,) int64, ``splits`` (n,) uint8 with the
    positions in ``SPLITS``.
    """

    key: str
    rows: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    splits: npt.NDArray[np.uint8]
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Written:
    """The array that ``RowWriter.finish`` stored."""

    key: str
    rows: int
    size_bytes: int


class RowWriter(Protocol):
    """A dataset that is being written: ``append`` chunks, then ``finish`` once."""

    def append(self, rows: npt.NDArray[Any], labels: npt.NDArray[np.integer[Any]]) -> None:
        """Add ``rows`` (k, *shape) in the writer's dtype and their ``labels`` (k,) integers."""

    def finish(
        self, *, splits: npt.NDArray[np.uint8], classes: int, source: dict[str, Any]
    ) -> Written:
        """Store what was appended under its key; ``splits`` (n,) uint8, ``source`` is JSON.

        The same dataset stored twice is one array. Raise ``ErasedContent`` if rows of the stored
        one have been erased since, because they would come back.
        """


class Rows(Protocol):
    """The rows of datasets, each dataset under a key that covers its name and contents."""

    def writer(
        self, *, name: str, dtype: npt.DTypeLike, shape: Sequence[int]
    ) -> AbstractContextManager[RowWriter]:
        """Write a dataset chunk by chunk; without ``finish`` nothing is kept.

        ``dtype`` is one of ``DTYPES``, ``shape`` that of one row.
        """

    def open(self, key: str, *, beside: Collection[str] = ()) -> Array:
        """Open an array for reading; those of the keys ``beside`` are read together with it."""

    def read(self, key: str, rows: Numbers) -> npt.NDArray[Any]:
        """Return ``rows`` in this order, (k, *shape), zeros where erased; reads few others.

        Raise ``InvalidRows`` if one of them does not exist.
        """

    def erased(self, key: str) -> npt.NDArray[np.int64]:
        """Return the positions of the rows that have been erased, sorted, (k,) int64."""

    def digests(self, key: str, rows: Numbers) -> npt.NDArray[np.uint8]:
        """Return the digests of ``rows`` as ingested, (k, 16) uint8; zeros where erased."""

    def erase(self, key: str, rows: Numbers) -> None:
        """Erase the bytes, labels and digests of ``rows`` for good; their splits stay.

        May be repeated, and must be after an interruption. Raise ``InvalidRows``, and erase
        nothing, if one of them does not exist.
        """

    def verify(self, key: str) -> None:
        """Raise ``CorruptArray`` unless every row is as ingested or erased. Reads all rows."""

    def exists(self, key: str) -> bool:
        """Return whether a complete dataset is stored under ``key``."""

    def keys(self) -> list[str]:
        """Return the keys of all complete datasets, sorted."""

    def name(self, key: str) -> str:
        """Return the name under which a dataset was written. Reads no rows."""

    def delete(self, key: str) -> bool:
        """Destroy a dataset's rows; False if there were none. May be repeated."""

    def sweep(self, *, keep: Collection[str], older_than_seconds: float) -> list[str]:
        """Destroy leftovers of interrupted writers and keys not in ``keep``, once old enough."""


class Upload(Protocol):
    """Bytes received piece by piece; not part of the store before ``keep``."""

    @property
    def size_bytes(self) -> int:
        """Return how many bytes were received."""

    def write(self, piece: bytes) -> None:
        """Add a piece; raise ``Unwritable`` when there is no space."""

    def open(self) -> BinaryIO:
        """Open what was received for reading, from its beginning."""

    def sha256(self) -> str:
        """Return the digest of what was received."""

    def keep(self, kind: Kind, manifest: dict[str, Any]) -> Saved:
        """Store it as a blob, like ``Blobs.put``."""

    def discard(self) -> None:
        """Destroy it unless it was kept; may be repeated."""


class Store(Protocol):
    """Blobs and rows in one place."""

    @property
    def location(self) -> str:
        """Return where the store is; contains no secret."""

    @property
    def blobs(self) -> Blobs: ...

    @property
    def rows(self) -> Rows: ...

    def receive(self, *, leftover_seconds: float) -> Upload:
        """Begin an upload; leftovers of killed processes are destroyed."""

    def ticket(self, *keys: str) -> dict[str, Any]:
        """Return, as JSON, what another process needs to open the store and these arrays.

        It may hold secrets: pass it to that process only, and never log or store it.
        """

    def check(self) -> None:
        """Raise ``Unavailable`` when the store cannot be read and written now."""
