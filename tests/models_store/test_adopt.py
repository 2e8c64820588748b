"""Uploads that are moved into the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import safetensors.numpy

from models_store import checkpoints


def _upload(directory: Path) -> Path:
    file = directory / "upload.part"
    # What another program wrote differs from what the store would write: metadata, order.
    tensors = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2), np.float32)}
    safetensors.numpy.save_file(tensors, file, metadata={"format": "np"})
    return file


def test_an_upload_keeps_its_bytes_and_loads_like_any_other(tmp_path: Path) -> None:
    file = _upload(tmp_path)
    sent = file.read_bytes()
    saved = checkpoints.adopt(tmp_path / "store", file, {"origin": "imported"})
    assert not file.exists()
    assert saved.digest == hashlib.sha256(sent).hexdigest()
    assert saved.size_bytes == len(sent)
    assert checkpoints.path(tmp_path / "store", saved.digest).read_bytes() == sent
    loaded = checkpoints.load(tmp_path / "store", saved.digest)
    np.testing.assert_array_equal(loaded["b"], [0.0, 1.0, 2.0])
    assert checkpoints.manifest(tmp_path / "store", saved.digest) == {"origin": "imported"}


def test_adopting_the_same_bytes_again_repairs_a_damaged_copy(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = checkpoints.adopt(store, _upload(tmp_path), {})
    checkpoints.path(store, first.digest).write_bytes(b"damaged")
    second = checkpoints.adopt(store, _upload(tmp_path), {})
    assert second == first
    assert set(checkpoints.load(store, second.digest)) == {"a", "b"}
