"""Open the store at a location.

A package of your own adds a store by declaring an entry point in the group ``GROUP``: its name is
the scheme of the locations that it opens, its value a function ``open(location, *, data_keys,
scratch, timeout_seconds)`` that returns a ``Store``. Only installed packages are searched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models_store.local.store import LocalStore
from models_store.protocols import Store

if TYPE_CHECKING:
    from models_store.data_keys import DataKeys

GROUP = "models_store.stores"
BUCKET = "s3"
TIMEOUT_SECONDS = 30.0


def open_store(
    location: str | Path,
    *,
    data_keys: DataKeys | None = None,
    scratch: Path | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Store:
    """Return the store at ``location``; nothing is read yet.

    ``location`` is a directory, ``s3://bucket/prefix``, or of a scheme that an installed package
    adds. For a bucket, endpoint and credentials come from the environment (``AWS_ENDPOINT_URL``,
    ``AWS_ACCESS_KEY_ID``, ...); ``data_keys`` holds the keys of its rows (without it, no rows can
    be read or written), ``scratch`` is the directory of uploads, and an operation ends after
    ``timeout_seconds``. Raise ``ValueError`` for another scheme.
    """
    scheme = _scheme(location)
    if scheme is None:
        return LocalStore(Path(location))
    # Imported here, because a store in a directory does not need it.
    from models_store.data_keys import TicketKeys

    return _opener(scheme)(
        str(location),
        data_keys=data_keys or TicketKeys({}),
        scratch=scratch or Path(tempfile.gettempdir()) / "unlearn-uploads",
        timeout_seconds=timeout_seconds,
    )


def open_ticket(ticket: dict[str, Any], *, earlier: Store | None = None) -> Store:
    """Return the store of another process' ``Store.ticket``.

    ``earlier`` is the store of an earlier ticket; if it is the same bucket, it is used again, with
    what it has in memory.
    """
    location = ticket["location"]
    scheme = _scheme(location)
    if scheme is None:
        return LocalStore(Path(location))
    if scheme != BUCKET:
        return open_store(location)
    from models_store.object_store.store import ObjectStore, keys_of

    if isinstance(earlier, ObjectStore) and earlier.location == location:
        earlier.use(ticket)
        return earlier
    return open_store(
        location, data_keys=keys_of(ticket), timeout_seconds=ticket["timeout_seconds"]
    )


def _scheme(location: str | Path) -> str | None:
    scheme, separator, _ = str(location).partition("://")
    return scheme if separator else None


def _opener(scheme: str) -> Callable[..., Store]:
    if scheme == BUCKET:
        from models_store.object_store.store import ObjectStore

        return ObjectStore
    points = metadata.entry_points(group=GROUP, name=scheme)
    if len(points) != 1:
        there = ", ".join(sorted({BUCKET, *metadata.entry_points(group=GROUP).names}))
        raise ValueError(
            f"{len(points)} installed packages open {scheme}:// stores, not one; a store is a "
            f"directory, or a location of one of the schemes {there}"
        )
    (point,) = points
    opener: Callable[..., Store] = point.load()
    return opener
