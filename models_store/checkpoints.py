"""Checkpoints of model versions: ``objects`` of the kind that is served and imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models_store import objects, uploads
from models_store.objects import Saved

Spec = uploads.Spec
Ties = uploads.Ties
check_upload = uploads.check


def save(root: Path, tensors: Mapping[str, np.ndarray], manifest: dict[str, Any]) -> Saved:
    """Store weights by the sha256 of their safetensors file; see ``objects.save``."""
    return objects.save(root, tensors, manifest, kind="checkpoints")


def adopt(root: Path, file: Path, manifest: dict[str, Any]) -> Saved:
    """Move an upload that passed ``check_upload`` into the store; see ``objects.adopt``."""
    return objects.adopt(root, file, manifest, kind="checkpoints")


def load(root: Path, digest: str) -> dict[str, np.ndarray]:
    """Weights by name, after the digest was checked (``CorruptCheckpoint`` otherwise)."""
    return objects.load(root, digest, kind="checkpoints")


def manifest(root: Path, digest: str) -> dict[str, Any]:
    """What was said about the checkpoint when it was stored."""
    return objects.manifest(root, digest, kind="checkpoints")


def path(root: Path, digest: str) -> Path:
    """The safetensors file, for streaming."""
    return objects.path(root, digest, kind="checkpoints")


def exists(root: Path, digest: str) -> bool:
    """Whether the checkpoint is stored completely."""
    return objects.exists(root, digest, kind="checkpoints")


def destroy(root: Path, digest: str) -> bool:
    """Overwrite with zeros and unlink; False when nothing was there. May be repeated."""
    return objects.destroy(root, digest, kind="checkpoints")


def sweep(root: Path, keep: Collection[str], older_than_seconds: float) -> list[str]:
    """Remove leftovers of crashes and checkpoints not in ``keep``, once they are old enough."""
    return objects.sweep(root, keep, older_than_seconds, kind="checkpoints")
