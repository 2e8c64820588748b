"""Data keys of encrypted shards; where they are stored is decided outside this package."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models_store import errors


@dataclass(frozen=True)
class Shard:
    """An encrypted shard: the SHA-256 of its bytes, how many rows it has, its key of 32 bytes."""

    digest: str
    rows: int
    key: bytes = field(repr=False)


class DataKeys(Protocol):
    """Keeps the shards of arrays and destroys their keys; each call is a transaction of its own.

    ``array`` is the key of a dataset's rows, or the name under which they are being written.
    """

    def of(self, array: str) -> Sequence[Shard]:
        """Return the shards of an array in the order of its rows; empty when there are none."""

    def add(self, array: str, number: int, shard: Shard) -> None:
        """Add the shard ``number`` of an array that is being written."""

    def rename(self, array: str, to: str) -> bool:
        """Name a written array by its key; False, unchanged, if that key has shards already."""

    def replace(self, array: str, number: int, old: str, new: Shard) -> bool:
        """Replace the shard with digest ``old`` by ``new``, and destroy the old key.

        Return False, unchanged, if the shard has been replaced meanwhile.
        """

    def destroy(self, array: str) -> Sequence[str]:
        """Destroy the keys of an array; return the digests of its shards."""

    def unfinished(self, *, older_than_seconds: float) -> Sequence[str]:
        """Return the names of unfinished arrays that got no shard for this long."""

    def digests(self) -> set[str]:
        """Return the digests of all shards that have a key."""


class TicketKeys:
    """The shards of the arrays in a ticket, read-only."""

    def __init__(self, shards: Mapping[str, Sequence[Shard]]) -> None:
        self._shards = shards

    def of(self, array: str) -> Sequence[Shard]:
        return self._shards.get(array, ())

    def add(self, array: str, number: int, shard: Shard) -> None:
        raise _may_not_write()

    def rename(self, array: str, to: str) -> bool:
        raise _may_not_write()

    def replace(self, array: str, number: int, old: str, new: Shard) -> bool:
        raise _may_not_write()

    def destroy(self, array: str) -> Sequence[str]:
        raise _may_not_write()

    def unfinished(self, *, older_than_seconds: float) -> Sequence[str]:
        raise _may_not_write()

    def digests(self) -> set[str]:
        raise _may_not_write()


def to_json(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Return shards with their keys as JSON, only for another process of ours."""
    return [
        {"digest": one.digest, "rows": one.rows, "key": base64.b64encode(one.key).decode()}
        for one in shards
    ]


def from_json(found: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """Return the shards from which ``to_json`` made this."""
    return [Shard(one["digest"], one["rows"], base64.b64decode(one["key"])) for one in found]


def _may_not_write() -> errors.StoreError:
    return errors.StoreError("This process may read the rows that it was given keys for, no more.")
