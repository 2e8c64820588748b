"""Objects of a bucket that is not the store's, to be read: the source of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

PIECE_BYTES = 1 << 23


class Reader(Protocol):
    """What is asked of a bucket."""

    def size_bytes(self, name: str) -> int | None:
        """Return an object's size; None if it does not exist."""

    def read_range(self, name: str, start: int, size: int) -> memoryview | None:
        """Return up to ``size`` bytes of an object; None if it does not exist."""


@dataclass(frozen=True)
class Object:
    """An object of a bucket with its full name."""

    name: str
    size_bytes: int
    _reader: Reader

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes in pieces; ends early if the object goes meanwhile."""
        for start in range(0, self.size_bytes, PIECE_BYTES):
            size = min(PIECE_BYTES, self.size_bytes - start)
            piece = self._reader.read_range(self.name, start, size)
            if piece is None:
                return
            yield piece


def find(location: str, *, timeout_seconds: float) -> list[Object]:
    """Return the object at ``s3://bucket/name``, or else all objects below it as a folder.

    Endpoint and credentials come from the environment (``AWS_...``). Raise ``ValueError`` for
    another form of location, ``BucketUnavailable`` if the bucket cannot be read.
    """
    try:  # imported here, because most sources are files
        from models_store.object_store.bucket import Bucket, split_location
    except ImportError as error:
        raise ValueError(
            "buckets need a package that is not installed: pip install 'unlearn[s3]'"
        ) from error
    bucket, name = split_location(location)
    reader = Bucket(f"s3://{bucket}", timeout_seconds=timeout_seconds)
    whole = reader.size_bytes(name)
    if whole is not None:
        return [Object(name, whole, reader)]
    found = {one.name: one.size_bytes for one in reader.list(name)}
    # Consoles of buckets mark a folder by an empty object of its name; a file has no place there.
    folders = {name, *(above for one in found for above in _above(one))}
    return [
        Object(f"{name}/{one}", size, reader)
        for one, size in found.items()
        if size or one not in folders
    ]


def _above(name: str) -> Iterator[str]:
    """Yield the folders that an object lies in."""
    while name := name.rpartition("/")[0]:
        yield name
