"""Open the store at a location."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models_store.local.store import LocalStore
from models_store.protocols import Store

if TYPE_CHECKING:
    from models_store.data_keys import DataKeys

SCHEME = "s3://"
TIMEOUT_SECONDS = 30.0


def open_store(
    location: str | Path,
    *,
    data_keys: DataKeys | None = None,
    scratch: Path | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Store:
    """Return the store at ``location``, a directory or ``s3://bucket/prefix``; nothing is read yet.

    For a bucket, endpoint and credentials come from the environment (``AWS_ENDPOINT_URL``,
    ``AWS_ACCESS_KEY_ID``, ...); ``data_keys`` holds the keys of its rows (without it, no rows can
    be read or written), ``scratch`` is the directory of uploads, and an operation ends after
    ``timeout_seconds``. Raise ``ValueError`` for a location of another form.
    """
    if not str(location).startswith(SCHEME):
        return LocalStore(Path(location))
    # Imported here, because a store in a directory does not need it.
    from models_store.data_keys import TicketKeys
    from models_store.object_store.store import ObjectStore

    return ObjectStore(
        str(location),
        data_keys=data_keys or TicketKeys({}),
        scratch=scratch or Path(tempfile.gettempdir()) / "unlearn-uploads",
        timeout_seconds=timeout_seconds,
    )


def open_ticket(ticket: dict[str, Any], *, earlier: Store | None = None) -> Store:
    """Return the store of another process' ``Store.ticket``.

    ``earlier`` is the store of an earlier ticket; if it is the same store, it is used again, with
    what it has in memory.
    """
    location = ticket["location"]
    if not location.startswith(SCHEME):
        return LocalStore(Path(location))
    from models_store.object_store.store import ObjectStore, keys_of

    if isinstance(earlier, ObjectStore) and earlier.location == location:
        earlier.use(ticket)
        return earlier
    return open_store(
        location, data_keys=keys_of(ticket), timeout_seconds=ticket["timeout_seconds"]
    )
