"""What tests say of a store in a directory: its files, and weights put into it and read from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models_store import open_store, safetensors_check, tensors
from models_store.protocols import Kind, Saved


def blob_file(root: Path, digest: str, kind: Kind = "checkpoints") -> Path:
    """The file of a blob."""
    return root / kind / digest / "tensors.safetensors"


def save(
    root: Path,
    named: Mapping[str, np.ndarray],
    manifest: dict[str, Any],
    kind: Kind = "checkpoints",
) -> Saved:
    """Store tensors."""
    return tensors.save(open_store(root).blobs, named, manifest, kind=kind)


def load(root: Path, digest: str, kind: Kind = "checkpoints") -> dict[str, np.ndarray]:
    """Read tensors."""
    return tensors.load(open_store(root).blobs, digest, kind=kind)


def receive(root: Path, content: bytes, manifest: dict[str, Any]) -> Saved:
    """Receive a checkpoint's bytes and keep them."""
    upload = open_store(root).receive(leftover_seconds=3600)
    upload.write(content)
    return upload.keep("checkpoints", manifest)


def check_file(
    file: Path,
    spec: safetensors_check.Spec,
    max_bytes: int,
    *,
    tied: safetensors_check.Ties = (),
) -> None:
    """Check a file as one that came from outside."""
    with file.open("rb") as stream:
        safetensors_check.check(stream, file.stat().st_size, spec, max_bytes, tied=tied)
