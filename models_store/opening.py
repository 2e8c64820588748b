"""Open the store that a location names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models_store.local.store import LocalStore
from models_store.protocols import Store


def open_store(location: str | Path) -> Store:
    """Return the store at ``location``, a directory; nothing is read or made yet."""
    return LocalStore(Path(location))


def open_ticket(ticket: dict[str, Any]) -> Store:
    """Return the store that ``Store.ticket`` of another process speaks of."""
    return open_store(ticket["location"])
