"""Immutable named tensors, stored as ``<root>/<kind>/<sha256 of the safetensors file>/``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors
import safetensors.numpy

from models_store import errors, files

Kind = Literal["checkpoints", "caches", "states", "logs", "scores", "trainings"]
TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class Saved:
    """``digest`` is the sha256 of the safetensors file and the name to load it by."""

    digest: str
    size_bytes: int


def save(
    root: Path, tensors: Mapping[str, np.ndarray], manifest: dict[str, Any], *, kind: Kind
) -> Saved:
    """Store ``tensors`` with ``manifest`` (anything JSON can say); storing the same twice is fine.

    What is stored first keeps its manifest, because the tensors alone make the name. A damaged
    copy found under the name is replaced.
    """
    home = _home(root, kind)
    with files.building(home) as new, files.writing(home):
        _write(new, tensors)
        return _publish(root, new, manifest, kind=kind)


def adopt(root: Path, file: Path, manifest: dict[str, Any], *, kind: Kind) -> Saved:
    """Store a checked safetensors file that lies in the store's file system; it is moved.

    Its bytes stay as they are, so the digest is the one that whoever sent it can compute.
    """
    home = _home(root, kind)
    with files.building(home) as new, files.writing(home):
        file.rename(new / TENSORS)
        return _publish(root, new, manifest, kind=kind)


def load(root: Path, digest: str, *, kind: Kind) -> dict[str, np.ndarray]:
    """The tensors of ``digest``, after its bytes and its manifest were checked."""
    manifest(root, digest, kind=kind)
    file = path(root, digest, kind=kind)
    _check(file, digest)
    try:
        return safetensors.numpy.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(file, digest) from error


def manifest(root: Path, digest: str, *, kind: Kind) -> dict[str, Any]:
    """What was said about ``digest`` when it was stored."""
    thing = files.find(_home(root, kind), digest)
    content = files.read_manifest(thing, corrupt=errors.CorruptCheckpoint)
    if content.get("digest") != digest:
        raise _damaged(thing / files.MANIFEST, digest)
    return dict(content["manifest"])


def path(root: Path, digest: str, *, kind: Kind) -> Path:
    """The safetensors file of ``digest``, for streaming; its bytes are not checked here."""
    return files.find(_home(root, kind), digest) / TENSORS


def verify(root: Path, digest: str, *, kind: Kind) -> None:
    """Raise CorruptCheckpoint unless manifest and tensors are what was stored."""
    manifest(root, digest, kind=kind)
    _check(path(root, digest, kind=kind), digest)


def exists(root: Path, digest: str, *, kind: Kind) -> bool:
    """Whether something complete is stored under ``digest``."""
    return (_home(root, kind) / files.check_name(digest)).is_dir()


def digests(root: Path, *, kind: Kind) -> list[str]:
    """Everything complete of this kind, sorted."""
    return files.names(_home(root, kind))


def destroy(root: Path, digest: str, *, kind: Kind) -> bool:
    """Overwrite with zeros and unlink; False when nothing was there. May be repeated."""
    return files.destroy(_home(root, kind), digest)


def sweep(root: Path, keep: Collection[str], older_than_seconds: float, *, kind: Kind) -> list[str]:
    """Remove leftovers of crashes and digests not in ``keep``, once they are old enough."""
    return files.sweep(_home(root, kind), keep=keep, older_than_seconds=older_than_seconds)


def _home(root: Path, kind: Kind) -> Path:
    if kind not in get_args(Kind):
        raise ValueError(f"Unknown kind {kind!r}; use one of {', '.join(get_args(Kind))}.")
    return Path(root) / kind


def _publish(root: Path, new: Path, manifest: dict[str, Any], *, kind: Kind) -> Saved:
    """Give a directory that holds the tensors its manifest and its final name."""
    file = new / TENSORS
    saved = Saved(digest=files.sha256(file), size_bytes=file.stat().st_size)
    content = {"digest": saved.digest, "size_bytes": saved.size_bytes, "manifest": manifest}
    files.write_manifest(new, content)
    if not files.publish(new, saved.digest):
        present = new.parent / saved.digest
        files.touch(present)
        if not _intact(root, saved.digest, kind):
            files.set_aside(present)
            files.publish(new, saved.digest)
    return saved


def _write(new: Path, tensors: Mapping[str, np.ndarray]) -> None:
    # safetensors writes the buffer as it lies: a view or a transposed array would be scrambled.
    ordered = {name: _in_order(tensor) for name, tensor in tensors.items()}
    try:
        safetensors.numpy.save_file(ordered, new / TENSORS)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error  # it wraps the operating system's error in its own


def _in_order(tensor: np.ndarray) -> np.ndarray:
    """Row-major copy where needed; unlike ``ascontiguousarray`` it keeps a scalar a scalar."""
    return np.asarray(tensor, order="C")


def _intact(root: Path, digest: str, kind: Kind) -> bool:
    try:
        verify(root, digest, kind=kind)
    except errors.Corrupt:
        return False
    return True


def _check(file: Path, digest: str) -> None:
    try:
        found = files.sha256(file)
    except OSError as error:
        raise _damaged(file, digest) from error
    if found != digest:
        raise _damaged(file, digest)


def _damaged(file: Path, digest: str) -> errors.CorruptCheckpoint:
    return errors.CorruptCheckpoint(
        f"{file.parent.parent.name}/{digest}/{file.name} is damaged: its bytes do not fit its "
        "digest. Restore it from a backup, or retrain to get a new version."
    )
