import hashlib
import os
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.numpy

from models_store import errors, open_store, tensors
from tests.stored import blob_file, load, save


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.normal(size=(6, 1, 5, 5)).astype(np.float32),
        "conv.bias": rng.normal(size=6).astype(np.float32),
        "norm.num_batches_tracked": np.array(12, dtype=np.int64),
        "head.weight": rng.normal(size=(10, 84)).astype(np.float32),
    }


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert left[name].shape == right[name].shape
        np.testing.assert_array_equal(left[name], right[name])


def flip_byte(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def age(directory, seconds):
    for part in (directory, *directory.iterdir()):
        past = part.stat().st_mtime - seconds
        os.utime(part, (past, past))


def test_a_checkpoint_reads_back_bit_for_bit_with_its_manifest(tmp_path):
    manifest = {"architecture": "lenet5", "parameters": {"classes": 10}}
    saved = save(tmp_path, weights(), manifest)
    assert_same(load(tmp_path, saved.digest), weights())
    assert open_store(tmp_path).blobs.manifest("checkpoints", saved.digest) == manifest
    assert open_store(tmp_path).blobs.exists("checkpoints", saved.digest)


def test_the_name_is_the_sha256_of_the_file_that_is_served(tmp_path):
    saved = save(tmp_path, weights(), {})
    content = blob_file(tmp_path, saved.digest).read_bytes()
    assert hashlib.sha256(content).hexdigest() == saved.digest
    assert len(content) == saved.size_bytes
    assert_same(safetensors.numpy.load(content), weights())


def test_equal_weights_have_one_name_whatever_their_memory_order(tmp_path):
    first = save(tmp_path, weights(), {"seed": 1})
    scrambled = {
        name: np.asarray(tensor, order="F") for name, tensor in reversed(list(weights().items()))
    }
    assert not scrambled["head.weight"].flags.c_contiguous
    assert save(tmp_path, scrambled, {"seed": 2}) == first
    assert open_store(tmp_path).blobs.manifest("checkpoints", first.digest) == {"seed": 1}
    assert_same(load(tmp_path, first.digest), weights())
    assert save(tmp_path, weights(seed=1), {}).digest != first.digest


def test_views_are_stored_as_they_read(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    saved = save(tmp_path, {"view": base[::2, 1::2], "turned": base.T}, {})
    assert_same(
        load(tmp_path, saved.digest),
        {"view": base[::2, 1::2].copy(), "turned": base.T.copy()},
    )


@pytest.mark.parametrize("position", [0, 9, 60, 400, -1])
def test_a_flipped_byte_in_the_tensors_is_found(tmp_path, position):
    saved = save(tmp_path, weights(), {})
    flip_byte(blob_file(tmp_path, saved.digest), position)
    with pytest.raises(errors.CorruptCheckpoint, match="damaged"):
        load(tmp_path, saved.digest)


def test_every_flipped_byte_in_the_manifest_is_found(tmp_path):
    saved = save(tmp_path, weights(), {"architecture": "mlp"})
    file = blob_file(tmp_path, saved.digest).with_name("manifest.json")
    sound = file.read_bytes()
    for position in range(len(sound)):
        flip_byte(file, position)
        with pytest.raises(errors.CorruptCheckpoint):
            load(tmp_path, saved.digest)
        file.write_bytes(sound)
    assert open_store(tmp_path).blobs.manifest("checkpoints", saved.digest) == {
        "architecture": "mlp"
    }


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_a_missing_file_is_found(tmp_path, name):
    saved = save(tmp_path, weights(), {})
    blob_file(tmp_path, saved.digest).with_name(name).unlink()
    with pytest.raises(errors.CorruptCheckpoint):
        load(tmp_path, saved.digest)


def test_a_manifest_from_another_checkpoint_is_found(tmp_path):
    first = save(tmp_path, weights(), {})
    second = save(tmp_path, weights(seed=1), {})
    source = blob_file(tmp_path, first.digest).with_name("manifest.json")
    blob_file(tmp_path, second.digest).with_name("manifest.json").write_bytes(source.read_bytes())
    with pytest.raises(errors.CorruptCheckpoint):
        open_store(tmp_path).blobs.manifest("checkpoints", second.digest)


def test_saving_again_replaces_a_damaged_copy(tmp_path):
    saved = save(tmp_path, weights(), {})
    flip_byte(blob_file(tmp_path, saved.digest), -1)
    assert save(tmp_path, weights(), {}) == saved
    assert_same(load(tmp_path, saved.digest), weights())


def test_manifest_with_nan_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        save(tmp_path, weights(), {"loss": float("nan")})
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_destroyed_weights_are_overwritten_before_they_are_unlinked(tmp_path):
    saved = save(tmp_path, weights(), {})
    with blob_file(tmp_path, saved.digest).open("rb") as still_open:
        assert open_store(tmp_path).blobs.delete("checkpoints", saved.digest)
        assert still_open.read() == bytes(saved.size_bytes)
    assert not open_store(tmp_path).blobs.exists("checkpoints", saved.digest)
    with pytest.raises(errors.NotStored):
        load(tmp_path, saved.digest)
    assert not open_store(tmp_path).blobs.delete("checkpoints", saved.digest)


def test_destroy_finishes_what_an_interrupted_destroy_left(tmp_path):
    saved = save(tmp_path, weights(), {})
    home = tmp_path / "checkpoints"
    (home / saved.digest).rename(home / f".gone-{saved.digest}-0")
    assert open_store(tmp_path).blobs.delete("checkpoints", saved.digest)
    assert list(home.iterdir()) == []


def test_sweep_removes_old_leftovers_and_old_orphans_only(tmp_path):
    home = tmp_path / "checkpoints"
    kept, orphan, young = (save(tmp_path, weights(seed=s), {}).digest for s in range(3))
    for name in (".new-dead", f".gone-{'0' * 64}-1"):
        (home / name).mkdir()
        (home / name / "tensors.safetensors").write_bytes(b"half")
        age(home / name, 7200)
    (home / "somebody-elses").mkdir()
    age(home / "somebody-elses", 7200)
    age(home / kept, 7200)
    age(home / orphan, 7200)
    removed = open_store(tmp_path).blobs.sweep("checkpoints", keep={kept}, older_than_seconds=3600)
    assert sorted(removed) == sorted([".new-dead", f".gone-{'0' * 64}-1", orphan])
    assert open_store(tmp_path).blobs.digests("checkpoints") == sorted([kept, young])
    assert (home / "somebody-elses").is_dir()


def test_sweep_spares_an_old_orphan_that_was_stored_again(tmp_path):
    digest = save(tmp_path, weights(), {}).digest
    age(tmp_path / "checkpoints" / digest, 7200)
    save(tmp_path, weights(), {})
    assert (
        open_store(tmp_path).blobs.sweep("checkpoints", keep=set(), older_than_seconds=3600) == []
    )


def test_sweep_spares_a_slow_writer_whose_files_still_grow(tmp_path):
    slow = tmp_path / "checkpoints" / ".new-slow"
    slow.mkdir(parents=True)
    age(slow, 7200)
    (slow / "tensors.safetensors").write_bytes(b"fresh")
    past = slow.stat().st_mtime - 7200
    os.utime(slow, (past, past))
    assert (
        open_store(tmp_path).blobs.sweep("checkpoints", keep=set(), older_than_seconds=3600) == []
    )


def test_sweep_of_a_store_that_was_never_used_is_empty(tmp_path):
    assert open_store(tmp_path).blobs.sweep("checkpoints", keep=set(), older_than_seconds=0) == []


def test_kinds_are_apart_and_share_one_form(tmp_path):
    saved = save(tmp_path, weights(), {}, "caches")
    assert_same(load(tmp_path, saved.digest, "caches"), weights())
    open_store(tmp_path).blobs.verify("caches", saved.digest)
    with pytest.raises(errors.NotStored):
        load(tmp_path, saved.digest)
    with pytest.raises(ValueError, match="Unknown kind"):
        tensors.save(open_store(tmp_path).blobs, weights(), {}, kind="../outside")


@pytest.mark.parametrize("digest", ["../x", "", "g" * 64, "0" * 65, None])
def test_a_name_that_is_no_digest_cannot_leave_the_store(tmp_path, digest):
    blobs = open_store(tmp_path).blobs
    for act in (blobs.open, blobs.manifest, blobs.verify, blobs.exists, blobs.delete):
        with pytest.raises(errors.NotStored):
            act("checkpoints", digest)


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "root").write_text("a file where the store's directory should be")
    with pytest.raises(errors.Unwritable, match="Cannot write to checkpoints of the store"):
        save(tmp_path / "root", weights(), {})


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    program = f"""
        import resource
        import numpy as np
        from models_store import errors, open_store, tensors
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        store = open_store({str(tmp_path)!r})
        try:
            named = {{"w": np.ones(1 << 16, np.float32)}}
            tensors.save(store.blobs, named, {{}}, kind="checkpoints")
        except errors.Unwritable:
            print("refused")
        try:
            with store.rows.writer(name="x", dtype="uint8", shape=(1 << 16,)) as w:
                for _ in range(3):
                    w.append(np.ones((1, 1 << 16), np.uint8), np.zeros(1, np.int64))
        except errors.Unwritable:
            print("refused")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["refused", "refused"]
    assert list((tmp_path / "checkpoints").iterdir()) == []
    assert list((tmp_path / "arrays").iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 16
