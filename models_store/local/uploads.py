"""Uploads as files in a directory; an upload that is not kept is overwritten before removal."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from models_store.local import directories
from models_store.protocols import Kind, Saved

Keep = Callable[[Kind, Path, dict[str, Any]], Saved]


class LocalUpload:
    """See ``models_store.protocols.Upload``; ``keep`` receives the file, which it may move."""

    def __init__(self, file: Path, keep: Keep) -> None:
        self._file, self._keep = file, keep
        with directories.writing(file.parent):
            self._stream = file.open("xb", buffering=0)

    @property
    def size_bytes(self) -> int:
        return self._file.stat().st_size

    def write(self, piece: bytes) -> None:
        with directories.writing(self._file.parent):
            view = memoryview(piece)
            while view:
                view = view[self._stream.write(view) :]

    def open(self) -> BinaryIO:
        return self._file.open("rb")

    def sha256(self) -> str:
        return directories.sha256(self._file)

    def keep(self, kind: Kind, manifest: dict[str, Any]) -> Saved:
        return self._keep(kind, self._file, manifest)

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # the next upload removes it
            self._stream.close()
            directories.discard(self._file)


def receive(directory: Path, *, keep: Keep, leftover_seconds: float) -> LocalUpload:
    """Begin an upload in ``directory``, and remove leftovers of killed processes."""
    with directories.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for file in directory.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > leftover_seconds:
                    directories.discard(file)
    return LocalUpload(directory / f"{uuid.uuid4().hex}.part", keep)
