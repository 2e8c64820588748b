"""Uploads that are kept in the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import safetensors.numpy

from models_store import open_store
from tests.stored import blob_file, load, receive


def _upload(directory: Path) -> Path:
    file = directory / "upload.part"
    # What another program wrote differs from what the store would write: metadata, order.
    tensors = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2), np.float32)}
    safetensors.numpy.save_file(tensors, file, metadata={"format": "np"})
    return file


def test_an_upload_keeps_its_bytes_and_loads_like_any_other(tmp_path: Path) -> None:
    file = _upload(tmp_path)
    sent = file.read_bytes()
    saved = receive(tmp_path / "store", file.read_bytes(), {"origin": "imported"})
    assert not any((tmp_path / "store" / "uploads").iterdir())  # moved, not copied
    assert saved.digest == hashlib.sha256(sent).hexdigest()
    assert saved.size_bytes == len(sent)
    assert blob_file(tmp_path / "store", saved.digest).read_bytes() == sent
    loaded = load(tmp_path / "store", saved.digest)
    np.testing.assert_array_equal(loaded["b"], [0.0, 1.0, 2.0])
    assert open_store(tmp_path / "store").blobs.manifest("checkpoints", saved.digest) == {
        "origin": "imported"
    }


def test_adopting_the_same_bytes_again_repairs_a_damaged_copy(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = receive(store, _upload(tmp_path).read_bytes(), {})
    blob_file(store, first.digest).write_bytes(b"damaged")
    second = receive(store, _upload(tmp_path).read_bytes(), {})
    assert second == first
    assert set(load(store, second.digest)) == {"a", "b"}
