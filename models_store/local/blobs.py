"""Blobs as directories: ``<root>/<kind>/<digest>/`` with the bytes and their manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from models_store import errors, names, streams
from models_store.local import directories
from models_store.protocols import Content, Kind, Saved

TENSORS = "tensors.safetensors"


class LocalBlobs:
    """See ``models_store.protocols.Blobs``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, kind: Kind, content: Content, manifest: dict[str, Any]) -> Saved:
        home = self._home(kind)
        with directories.building(home) as new, directories.writing(home):
            hashed = hashlib.sha256()
            with (new / TENSORS).open("wb", buffering=0) as stream:
                for piece in content.pieces():
                    hashed.update(piece)
                    while piece:
                        piece = piece[stream.write(piece) :]
            saved = Saved(digest=hashed.hexdigest(), size_bytes=content.size_bytes)
            return self._publish(kind, new, saved, manifest)

    def adopt(self, kind: Kind, file: Path, manifest: dict[str, Any]) -> Saved:
        """Store a file that lies in the store's file system by moving it."""
        home = self._home(kind)
        with directories.building(home) as new, directories.writing(home):
            file.rename(new / TENSORS)
            moved = new / TENSORS
            saved = Saved(digest=directories.sha256(moved), size_bytes=moved.stat().st_size)
            return self._publish(kind, new, saved, manifest)

    def open(self, kind: Kind, digest: str, start: int = 0, stop: int | None = None) -> BinaryIO:
        file = self._file(kind, digest)
        try:
            stream = file.open("rb")
        except OSError as error:
            raise errors.damaged_blob(kind, digest) from error
        stream.seek(start)
        return stream if stop is None else streams.part(stream, stop - start)

    def size(self, kind: Kind, digest: str) -> int:
        size: int = self._record(kind, digest)["size_bytes"]
        return size

    def manifest(self, kind: Kind, digest: str) -> dict[str, Any]:
        return dict(self._record(kind, digest)["manifest"])

    def verify(self, kind: Kind, digest: str) -> None:
        self.manifest(kind, digest)
        try:
            found = directories.sha256(self._file(kind, digest))
        except OSError as error:
            raise errors.damaged_blob(kind, digest) from error
        if found != digest:
            raise errors.damaged_blob(kind, digest)

    def exists(self, kind: Kind, digest: str) -> bool:
        return (self._home(kind) / names.check_digest(digest)).is_dir()

    def digests(self, kind: Kind) -> list[str]:
        return directories.names_in(self._home(kind))

    def unlink(self, kind: Kind, digest: str) -> bool:
        return directories.unlink(self._home(kind), digest)

    def discard(self, kind: Kind, digest: str) -> None:
        directories.discard_unlinked(self._home(kind), digest)

    def old(self, kind: Kind, *, seconds: float) -> list[str]:
        return directories.old(self._home(kind), seconds=seconds)

    def delete(self, kind: Kind, digest: str) -> bool:
        return directories.destroy(self._home(kind), digest)

    def sweep(self, kind: Kind, *, keep: Collection[str], older_than_seconds: float) -> list[str]:
        return directories.sweep(self._home(kind), keep=keep, older_than_seconds=older_than_seconds)

    def _record(self, kind: Kind, digest: str) -> dict[str, Any]:
        thing = directories.find(self._home(kind), digest)
        record = directories.read_manifest(thing, corrupt=errors.CorruptCheckpoint)
        if record.get("digest") != digest:
            raise errors.damaged_blob(kind, digest)
        return record

    def _home(self, kind: Kind) -> Path:
        return self._root / names.check_kind(kind)

    def _file(self, kind: Kind, digest: str) -> Path:
        return directories.find(self._home(kind), digest) / TENSORS

    def _publish(self, kind: Kind, new: Path, saved: Saved, manifest: dict[str, Any]) -> Saved:
        """Write the manifest into a directory that holds the bytes, and rename it."""
        content = {"digest": saved.digest, "size_bytes": saved.size_bytes, "manifest": manifest}
        directories.write_manifest(new, content)
        if not directories.publish(new, saved.digest):
            present = new.parent / saved.digest
            directories.touch(present)
            if not self._is_intact(kind, saved.digest):
                directories.set_aside(present)
                directories.publish(new, saved.digest)
        return saved

    def _is_intact(self, kind: Kind, digest: str) -> bool:
        try:
            self.verify(kind, digest)
        except errors.Corrupt:
            return False
        return True
