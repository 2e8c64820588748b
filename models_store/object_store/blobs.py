"""Blobs as objects: parts of some megabytes, and a manifest that makes the blob complete.

Parts bound the memory in use, because a create-only put takes its bytes at once. The manifest is
written last, and deleted first when a blob is destroyed.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from typing_extensions import Buffer

from models_store import errors, names, streams
from models_store.object_store.bucket import Bucket, Found, is_older
from models_store.protocols import Content, Kind, Saved

PART_BYTES = 8 << 20
_MANIFEST = "manifest"


class ObjectBlobs:
    """See ``models_store.protocols.Blobs``."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def put(self, kind: Kind, content: Content, manifest: dict[str, Any]) -> Saved:
        hashed = hashlib.sha256()
        for piece in content.pieces():
            hashed.update(piece)
        saved = Saved(digest=hashed.hexdigest(), size_bytes=content.size_bytes)
        where = _folder(kind, saved.digest)
        if self._is_renewed(kind, saved.digest):
            return saved
        record = names.sealed(
            {
                "digest": saved.digest,
                "size_bytes": saved.size_bytes,
                "part_bytes": PART_BYTES,
                "manifest": manifest,
            }
        )
        for number, part in enumerate(_parts(content)):
            name = _part(where, number)
            # An existing part was left by an interrupted put, or is of a concurrent one.
            if not self._bucket.create(name, part) and self._bucket.read(name) != bytes(part):
                self._bucket.replace(name, part)
        self._bucket.create(f"{where}/{_MANIFEST}", record)
        return saved

    def open(self, kind: Kind, digest: str, start: int = 0, stop: int | None = None) -> BinaryIO:
        record = self._record(kind, digest)
        end = record["size_bytes"] if stop is None else min(stop, record["size_bytes"])
        parts = _Parts(self._bucket, kind, digest, record["part_bytes"], start, end)
        return io.BufferedReader(parts, streams.PIECE_BYTES)

    def size(self, kind: Kind, digest: str) -> int:
        size: int = self._record(kind, digest)["size_bytes"]
        return size

    def manifest(self, kind: Kind, digest: str) -> dict[str, Any]:
        return dict(self._record(kind, digest)["manifest"])

    def verify(self, kind: Kind, digest: str) -> None:
        hashed = hashlib.sha256()
        with self.open(kind, digest) as stream:
            for piece in streams.pieces(stream):
                hashed.update(piece)
        if hashed.hexdigest() != digest:
            raise errors.damaged_blob(kind, digest)

    def exists(self, kind: Kind, digest: str) -> bool:
        """Look for every part, too: one that is destroyed while it is put may lack some."""
        where = _folder(kind, digest)
        sealed = self._bucket.read(f"{where}/{_MANIFEST}")
        record = None if sealed is None else names.unsealed(sealed)
        if record is None:
            return sealed is not None  # damaged, which is not the same as absent
        parts = [one.size_bytes for one in self._bucket.list(where) if one.name != _MANIFEST]
        return sum(parts) >= int(record["size_bytes"])

    def digests(self, kind: Kind) -> list[str]:
        return sorted(
            digest
            for digest, objects in self._listed(kind).items()
            if any(one.name.endswith(f"/{_MANIFEST}") for one in objects)
        )

    def unlink(self, kind: Kind, digest: str) -> bool:
        # Nothing can be renamed in a bucket, and what were left would mix with another copy.
        return self.delete(kind, digest)

    def discard(self, kind: Kind, digest: str) -> None:
        names.check_digest(digest)  # ``unlink`` has destroyed it

    def old(self, kind: Kind, *, seconds: float) -> list[str]:
        return sorted(
            digest
            for digest, objects in self._listed(kind).items()
            if any(one.name.endswith(f"/{_MANIFEST}") for one in objects)
            and all(is_older(one.modified_at, seconds) for one in objects)
        )

    def delete(self, kind: Kind, digest: str) -> bool:
        where = _folder(kind, digest)
        found = [one.name for one in self._bucket.list(where)]
        # Without its manifest the blob is incomplete, even if the deletion is interrupted.
        self._bucket.delete([f"{where}/{name}" for name in found if name == _MANIFEST])
        self._bucket.delete([f"{where}/{name}" for name in found if name != _MANIFEST])
        return bool(found)

    def sweep(self, kind: Kind, *, keep: Collection[str], older_than_seconds: float) -> list[str]:
        removed = []
        for digest, objects in sorted(self._listed(kind).items()):
            if digest in keep or not all(
                is_older(one.modified_at, older_than_seconds) for one in objects
            ):
                continue
            # Checked again: it may have been stored once more since it was listed.
            renewed_at = self._bucket.modified_at(f"{_folder(kind, digest)}/{_MANIFEST}")
            if renewed_at is not None and not is_older(renewed_at, older_than_seconds):
                continue
            self.delete(kind, digest)
            removed.append(digest)
        return removed

    def _listed(self, kind: Kind) -> dict[str, list[Found]]:
        """Return objects by the digest whose folder they lie in."""
        found: dict[str, list[Found]] = defaultdict(list)
        for one in self._bucket.list(names.check_kind(kind)):
            digest = one.name.partition("/")[0]
            if names.is_digest(digest):
                found[digest].append(one)
        return found

    def _is_renewed(self, kind: Kind, digest: str) -> bool:
        """Return whether an intact blob exists; its age for ``sweep`` is then reset."""
        name = f"{_folder(kind, digest)}/{_MANIFEST}"
        record = self._bucket.read(name)
        if record is None:
            return False
        self._bucket.replace(name, record)
        try:
            self.verify(kind, digest)
        except errors.Corrupt:
            self.delete(kind, digest)
            return False
        return True

    def _record(self, kind: Kind, digest: str) -> dict[str, Any]:
        found = self._bucket.read(f"{_folder(kind, digest)}/{_MANIFEST}")
        if found is None:
            raise names.not_stored(kind, digest)
        record = names.unsealed(found)
        if record is None:
            raise errors.CorruptCheckpoint(names.damaged_manifest(kind, digest))
        if record.get("digest") != digest:
            raise errors.damaged_blob(kind, digest)
        return record


class _Parts(io.RawIOBase):
    """The bytes of a blob from ``start`` to before ``stop``, fetched as they are read."""

    def __init__(
        self, bucket: Bucket, kind: Kind, digest: str, part_bytes: int, start: int, stop: int
    ) -> None:
        self._bucket, self._kind, self._digest = bucket, kind, digest
        self._part_bytes, self._position, self._stop = part_bytes, start, stop
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        if not self._piece:
            self._piece = self._next()
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._piece))
        view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def _next(self) -> memoryview:
        """Return the bytes up to the end of the present part; empty at the end of the blob."""
        if self._position >= self._stop:
            return memoryview(b"")
        number, offset = divmod(self._position, self._part_bytes)
        size = min(self._part_bytes - offset, self._stop - self._position)
        name = _part(_folder(self._kind, self._digest), number)
        found = self._bucket.read_range(name, offset, size)
        if found is None or len(found) != size:
            raise errors.damaged_blob(self._kind, self._digest)
        self._position += size
        return found


def _parts(content: Content) -> Iterator[bytearray]:
    """Yield the content in parts; each must be used before the next one is made."""
    part = bytearray()
    for piece in content.pieces():
        while piece:
            room = PART_BYTES - len(part)
            part += piece[:room]
            piece = piece[room:]
            if len(part) == PART_BYTES:
                yield part
                part = bytearray()
    if part:
        yield part


def _folder(kind: Kind, digest: str) -> str:
    return f"{names.check_kind(kind)}/{names.check_digest(digest)}"


def _part(folder: str, number: int) -> str:
    return f"{folder}/part-{number:05d}"
