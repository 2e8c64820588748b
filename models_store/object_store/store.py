"""The store in a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models_store import data_keys
from models_store.data_keys import DataKeys, TicketKeys
from models_store.local import uploads
from models_store.local.uploads import LocalUpload
from models_store.object_store.blobs import ObjectBlobs
from models_store.object_store.bucket import Bucket
from models_store.object_store.rows import ObjectRows
from models_store.protocols import Kind, Saved
from models_store.streams import File


class ObjectStore:
    """See ``models_store.protocols.Store``; uploads wait in the directory ``scratch``."""

    def __init__(
        self, location: str, *, data_keys: DataKeys, scratch: Path, timeout_seconds: float
    ) -> None:
        self._location, self._scratch, self._timeout = location, scratch, timeout_seconds
        self._data_keys = data_keys
        self._bucket = Bucket(location, timeout_seconds=timeout_seconds)
        self._blobs = ObjectBlobs(self._bucket)
        self._rows = ObjectRows(self._bucket, data_keys)

    @property
    def location(self) -> str:
        return self._location

    @property
    def blobs(self) -> ObjectBlobs:
        return self._blobs

    @property
    def rows(self) -> ObjectRows:
        return self._rows

    def receive(self, *, leftover_seconds: float) -> LocalUpload:
        return uploads.receive(self._scratch, keep=self._keep, leftover_seconds=leftover_seconds)

    def ticket(self, *keys: str) -> dict[str, Any]:
        shards = {key: data_keys.to_json(self._data_keys.of(key)) for key in keys}
        return {"location": self._location, "timeout_seconds": self._timeout, "shards": shards}

    def use(self, ticket: dict[str, Any]) -> None:
        """Read with the keys of a newer ticket for the same store."""
        self._rows.read_with(keys_of(ticket))

    def check(self) -> None:
        self._bucket.check()

    def _keep(self, kind: Kind, file: Path, manifest: dict[str, Any]) -> Saved:
        return self._blobs.put(kind, File(file), manifest)


def keys_of(ticket: dict[str, Any]) -> TicketKeys:
    """Return the data keys that a ticket holds."""
    return TicketKeys({key: data_keys.from_json(one) for key, one in ticket["shards"].items()})
