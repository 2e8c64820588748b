"""Open the store that a location names."""

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

    Of a bucket, endpoint and credentials come from the environment (``AWS_ENDPOINT_URL``,
    ``AWS_ACCESS_KEY_ID``, ...); ``data_keys`` keeps the keys of its rows (without, none is read or
    written), ``scratch`` is where uploads wait, and an operation ends after ``timeout_seconds``.
    Raise ``ValueError`` where the location is of no known form.
    """
    if not str(location).startswith(SCHEME):
        return LocalStore(Path(location))
    # Not needed, and not loaded, where the store is a directory.
    from models_store.data_keys import TicketKeys
    from models_store.object_store.store import ObjectStore

    return ObjectStore(
        str(location),
        data_keys=data_keys or TicketKeys({}),
        scratch=scratch or Path(tempfile.gettempdir()) / "unlearn-uploads",
        timeout_seconds=timeout_seconds,
    )


def open_ticket(ticket: dict[str, Any], *, earlier: Store | None = None) -> Store:
    """Return the store that ``Store.ticket`` of another process speaks of.

    ``earlier`` is what an earlier ticket was answered with: of the same store it is used again,
    with what it has in memory.
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
