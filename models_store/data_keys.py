"""The data keys of shards: where they are kept is not this package's business."""

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
        """Keep the shard ``number`` of an array that is being written."""

    def rename(self, array: str, to: str) -> bool:
        """Name a written array by its key; False, changing nothing, where that has shards."""

    def replace(self, array: str, number: int, old: str, new: Shard) -> bool:
        """Put ``new`` in the place of the shard with digest ``old``, whose key is destroyed.

        False, changing nothing, where another one stands there by now.
        """

    def destroy(self, array: str) -> Sequence[str]:
        """Destroy the keys of an array; return the digests of its shards."""

    def unfinished(self, *, older_than_seconds: float) -> Sequence[str]:
        """Return the names of arrays that were being written and got no shard for so long."""

    def digests(self) -> set[str]:
        """Return the digests of all shards that have a key."""


class TicketKeys:
    """The shards of the arrays that a ticket names; nothing of them can be changed."""

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
    """Return shards with their keys as JSON, for another process and for nothing else."""
    return [
        {"digest": one.digest, "rows": one.rows, "key": base64.b64encode(one.key).decode()}
        for one in shards
    ]


def from_json(found: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """Return what ``to_json`` was given."""
    return [Shard(one["digest"], one["rows"], base64.b64decode(one["key"])) for one in found]


def _may_not_write() -> errors.StoreError:
    return errors.StoreError("This process may read the rows that it was given keys for, no more.")
