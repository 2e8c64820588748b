"""Directories that appear complete or not at all, and are overwritten before they disappear.

Every stored object is a directory whose name is its digest. It is filled under a temporary name
(``.new-``), flushed to the disk and renamed; it is destroyed by renaming it (``.gone-``),
overwriting its files and removing them. An incomplete one is destroyed the same way, because part
of a dataset is personal data, too. A crash at any moment therefore leaves a complete object or a
directory with a dotted name, which ``sweep`` removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from models_store import errors, names

MANIFEST = "manifest.json"
_NEW, _GONE = ".new-", ".gone-"
_CHUNK = 1 << 20


@contextlib.contextmanager
def building(home: Path) -> Iterator[Path]:
    """Yield a new directory under ``home`` to fill and ``publish``; remove it if not published."""
    new = home / f"{_NEW}{uuid.uuid4().hex}"
    try:
        with writing(home):
            home.mkdir(parents=True, exist_ok=True)
            new.mkdir()
        yield new
    finally:
        # A directory that cannot be overwritten keeps its dotted name, and the sweep tries again.
        with contextlib.suppress(OSError):
            discard(new)


@contextlib.contextmanager
def writing(home: Path) -> Iterator[None]:
    """Turn a full disk or a directory without permission into ``Unwritable``."""
    try:
        yield
    except OSError as error:
        raise errors.Unwritable(
            f"Cannot write to {home.name} of the store: {error.strerror or type(error).__name__}. "
            "Free disk space or repair the permissions and try again."
        ) from error


def publish(new: Path, name: str) -> bool:
    """Give the filled directory its final name; False if that name is taken already."""
    for file in new.iterdir():
        sync(file)
    sync(new)
    home = new.parent
    try:
        new.rename(home / name)
    except OSError:
        # A rename onto a non-empty directory fails: the same bytes were stored meanwhile.
        if not (home / name).is_dir():
            raise
        return False
    sync(home)
    return True


def set_aside(thing: Path) -> None:
    """Rename a damaged directory; its bytes stay until they are swept."""
    thing.rename(thing.parent / f"{_GONE}{thing.name}-{uuid.uuid4().hex}")
    sync(thing.parent)


def unlink(home: Path, name: str) -> bool:
    """Take a directory's name away; False if none exists. ``discard_unlinked`` destroys it."""
    names.check_digest(name)
    try:
        (home / name).rename(home / f"{_GONE}{name}-{uuid.uuid4().hex}")
    except FileNotFoundError:
        return False
    sync(home)
    return True


def discard_unlinked(home: Path, name: str) -> bool:
    """Overwrite and remove directories that had this name; False if there is none."""
    names.check_digest(name)
    found = sorted(home.glob(f"{_GONE}{name}-*"))
    for gone in found:
        with contextlib.suppress(FileNotFoundError):  # another process destroys it, too
            discard(gone)
    if found:
        sync(home)
    return bool(found)


def destroy(home: Path, name: str) -> bool:
    """Overwrite and remove a directory and leftovers of interrupted calls; False if none exists."""
    found = unlink(home, name)
    return discard_unlinked(home, name) or found


def discard(path: Path) -> None:
    """Overwrite a file, or every file of a directory, with zeros, flush it and remove it.

    Everything that held rows or weights is removed this way, so that freed blocks do not hold the
    old bytes. Does nothing if there is no file; may be repeated after an interruption.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            for part in sorted(path.iterdir()):
                discard(part)
            path.rmdir()
        else:
            _overwrite(path)
            path.unlink()


def old(home: Path, *, seconds: float) -> list[str]:
    """Return the names of complete objects that were not written or touched for so long, sorted."""
    found = []
    for name in names_in(home):
        with contextlib.suppress(FileNotFoundError):  # destroyed meanwhile
            if _is_old(home / name, seconds):
                found.append(name)
    return found


def sweep(home: Path, *, keep: Collection[str], older_than_seconds: float) -> list[str]:
    """Remove old unfinished directories and old objects not in ``keep``; return their names.

    Age is counted from the last write or ``touch``: a slow writer keeps its directory.
    """
    removed = []
    for thing in sorted(home.iterdir()) if home.is_dir() else []:
        if thing.name in keep or not _is_ours(thing):
            continue
        try:
            if not _is_old(thing, older_than_seconds):
                continue
            if not thing.name.startswith("."):
                destroy(home, thing.name)
            else:
                discard(thing)
        except FileNotFoundError:
            continue  # another sweep removed it
        removed.append(thing.name)
    if removed:
        sync(home)
    return removed


def names_in(home: Path) -> list[str]:
    """Return the names of the complete objects under ``home``, sorted."""
    if not home.is_dir():
        return []
    return sorted(thing.name for thing in home.iterdir() if names.is_digest(thing.name))


def find(home: Path, name: str) -> Path:
    """Return the directory of a complete object."""
    thing = home / names.check_digest(name)
    try:
        found = thing.is_dir()
    except OSError as error:
        raise errors.Unreadable(
            f"Cannot read {home.name} of the store: {error.strerror or type(error).__name__}. "
            "Repair the permissions and try again."
        ) from error
    if not found:
        raise names.not_stored(home.name, name)
    return thing


def touch(thing: Path) -> None:
    """Reset the age of ``thing`` for ``sweep``."""
    with contextlib.suppress(OSError):
        os.utime(thing)


def write_manifest(directory: Path, content: dict[str, Any]) -> None:
    """Write ``content`` with a digest of itself."""
    (directory / MANIFEST).write_bytes(names.sealed(content))


def read_manifest(directory: Path, *, corrupt: type[errors.Corrupt]) -> dict[str, Any]:
    """Return the content of a manifest whose own digest matches; raise ``corrupt`` otherwise."""
    try:
        content = names.unsealed((directory / MANIFEST).read_bytes())
    except OSError:
        content = None
    if content is None:
        raise corrupt(names.damaged_manifest(directory.parent.name, directory.name))
    return content


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, read piece by piece."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_at(file: Path, pieces: list[tuple[int, bytes]]) -> None:
    """Overwrite bytes of an existing file in place and flush them; (offset, bytes) pieces."""
    handle = os.open(file, os.O_WRONLY)
    try:
        for offset, content in pieces:
            view = memoryview(content)
            while view:
                written = os.pwrite(handle, view, offset)
                view, offset = view[written:], offset + written
        os.fsync(handle)
    finally:
        os.close(handle)


def _overwrite(file: Path) -> None:
    size = file.stat().st_size
    with file.open("r+b") as stream:
        for start in range(0, size, _CHUNK):
            stream.write(bytes(min(_CHUNK, size - start)))
        stream.flush()
        os.fsync(stream.fileno())


def _is_old(thing: Path, seconds: float) -> bool:
    last_written = max(part.stat().st_mtime for part in (thing, *thing.iterdir()))
    return time.time() - last_written >= seconds


def _is_ours(thing: Path) -> bool:
    return names.is_digest(thing.name) or thing.name.startswith((_NEW, _GONE))
