"""A source at hand: a file under the data root, or objects of a bucket, fetched for a while.

Fetched rows lie in a folder of their own under the state directory, which is removed once they are
read; what a killed process left there the next worker there removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from models_store import errors, objects
from service import sources
from service.errors import Unprocessable
from service.settings import Settings
from workers.readers import ReadError
from workers.sources.reading import Progress

#: Held by the process that reads what lies beside it.
_LOCK = ".in-use"


@contextmanager
def at_hand(settings: Settings, path: str, *, watch: Progress) -> Iterator[Path]:
    """Give the file or folder that a source names, for as long as the block takes.

    ``watch`` is called for every piece that is fetched; what it raises ends the fetching. Raise
    ``ReadError`` if the source is nowhere that settings allow, or cannot be fetched.
    """
    try:
        sources.check(settings.sources, settings.allowed_buckets, path)
    except Unprocessable as refusal:
        raise ReadError(f"{refusal.detail}; ask again") from None
    if not sources.is_in_bucket(path):
        yield sources.locate(settings.sources, path)
        return
    with _folder(settings.fetched) as folder:
        try:
            found = _fetch(settings, path, folder, watch)
        except errors.BucketUnavailable as error:
            raise ReadError(f"the bucket of the source cannot be read: {error}") from None
        yield found


def remove_left(home: Path) -> None:
    """Remove what killed processes left in ``home``; an ``OSError`` leaves it for the next time."""
    with contextlib.suppress(OSError):
        if any(one.name != _LOCK for one in home.iterdir()):
            with _locked(home / _LOCK):
                _remove_left(home)


def _fetch(settings: Settings, path: str, folder: Path, watch: Progress) -> Path:
    try:
        found = objects.find(path, timeout_seconds=settings.store_timeout_seconds)
    except ValueError as error:
        raise ReadError(str(error)) from None
    above, _, last = path.partition("://")[2].partition("/")[2].rpartition("/")
    files = {one.name.removeprefix(f"{above}/" if above else ""): one for one in found}
    _check(files, folder)
    try:
        _write(files, folder, watch)
    except OSError as error:  # its message names a path of this machine
        raise ReadError(
            f"an object of the source cannot be written as a file ({error.strerror}); no object "
            "may have the name of another's folder"
        ) from None
    return folder / last


def _write(files: Mapping[str, objects.Object], folder: Path, watch: Progress) -> None:
    for relative, one in sorted(files.items()):
        file = folder / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            watch(0, 1)
            for piece in one.pieces():
                stream.write(piece)
                watch(0, 1)
        if file.stat().st_size != one.size_bytes:
            raise ReadError("an object of the source changed while it was fetched; ask again")


def _check(files: Mapping[str, objects.Object], folder: Path) -> None:
    """Raise ``ReadError`` for no objects, names that cannot be files, or more than fits."""
    if not files:
        raise ReadError("the bucket has no object of this name, nor a folder with objects")
    if not all(sources.is_a_name(part) for name in files for part in name.split("/")):
        raise ReadError("an object's name cannot be the name of a file; rename it")
    needed = sum(one.size_bytes for one in files.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ReadError(
            f"the source has {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free where it "
            "would be fetched to; make room under UNLEARN_STATE_DIR, or divide the source"
        )


@contextmanager
def _folder(home: Path) -> Iterator[Path]:
    """Give an empty folder under ``home`` that is removed after the block."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(home / _LOCK):  # nobody takes a folder that is being made for a left one
            _remove_left(home)
            made = Path(tempfile.mkdtemp(dir=home))
            mine = (made / _LOCK).open("w")
            fcntl.flock(mine, fcntl.LOCK_EX)
    except OSError as error:
        raise ReadError(
            f"{home.name} under UNLEARN_STATE_DIR cannot be written ({error.strerror}); sources of "
            "a bucket are fetched to it"
        ) from None
    try:
        with mine:
            inner = made / "source"
            inner.mkdir()
            yield inner
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove_left(home: Path) -> None:
    """Remove folders that no process holds any more."""
    for folder in home.iterdir():
        if folder.name == _LOCK:
            continue
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except FileNotFoundError:
            pass  # killed before it was held
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
