"""The store in a directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from models_store import errors
from models_store.local import uploads
from models_store.local.blobs import LocalBlobs
from models_store.local.rows import LocalRows
from models_store.local.uploads import LocalUpload


class LocalStore:
    """See ``models_store.protocols.Store``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs, self._rows = LocalBlobs(root), LocalRows(root)

    @property
    def location(self) -> str:
        return str(self._root)

    @property
    def blobs(self) -> LocalBlobs:
        return self._blobs

    @property
    def rows(self) -> LocalRows:
        return self._rows

    def receive(self, *, leftover_seconds: float) -> LocalUpload:
        return uploads.receive(
            self._root / "uploads", keep=self._blobs.adopt, leftover_seconds=leftover_seconds
        )

    def ticket(self, *keys: str) -> dict[str, Any]:
        return {"location": self.location}

    def check(self) -> None:
        # A directory that does not exist yet is created by the first write.
        there = next(part for part in (self._root, *self._root.absolute().parents) if part.exists())
        if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            raise errors.Unwritable(
                f"The store's directory {self._root} cannot be read and written. "
                "Repair its permissions, or mount it."
            )
