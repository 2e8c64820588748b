import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from models_store import errors, open_store


def store(root, *, name="digits", rows=None, labels=None, splits=None, classes=10, chunk=7):
    rows = images() if rows is None else rows
    labels = (np.arange(len(rows)) % classes) if labels is None else labels
    splits = (np.arange(len(rows)) % 3).astype(np.uint8) if splits is None else splits
    with open_store(root).rows.writer(name=name, dtype=rows.dtype, shape=rows.shape[1:]) as writer:
        for start in range(0, len(rows), chunk):
            writer.append(rows[start : start + chunk], labels[start : start + chunk])
        return writer.finish(splits=splits, classes=classes, source={"file": "digits.csv"})


def images(n=50, shape=(1, 8, 8)):
    return np.random.default_rng(3).integers(1, 256, size=(n, *shape), dtype=np.uint8)


def directory(root, key):
    return root / "arrays" / key


def flip_byte(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_array_reads_back_as_it_was_written_in_chunks(tmp_path, dtype):
    rows = images().astype(dtype)
    written = store(tmp_path, rows=rows)
    array = open_store(tmp_path).rows.open(written.key)
    assert written.rows == len(array) == 50
    assert array.rows.dtype == dtype
    np.testing.assert_array_equal(array.rows, rows)
    np.testing.assert_array_equal(array.labels, np.arange(50) % 10)
    np.testing.assert_array_equal(array.splits, np.arange(50) % 3)
    assert array.manifest["name"] == "digits"
    assert array.manifest["classes"] == 10
    assert array.manifest["shape"] == [1, 8, 8]
    assert array.manifest["source"] == {"file": "digits.csv"}
    open_store(tmp_path).rows.verify(written.key)


def test_files_are_plain_npy_that_numpy_opens_without_pickle(tmp_path):
    key = store(tmp_path).key
    np.testing.assert_array_equal(np.load(directory(tmp_path, key) / "rows.npy"), images())
    assert np.load(directory(tmp_path, key) / "labels.npy").dtype == np.int64


def test_rows_are_mapped_and_not_copied(tmp_path):
    array = open_store(tmp_path).rows.open(store(tmp_path).key)
    assert isinstance(array.rows, np.memmap)


def test_what_a_reader_writes_into_rows_never_reaches_the_file(tmp_path):
    key = store(tmp_path).key
    array = open_store(tmp_path).rows.open(key)
    array.rows[:] = 0
    array.rows.flush()
    np.testing.assert_array_equal(open_store(tmp_path).rows.open(key).rows, images())


def test_key_does_not_depend_on_chunking_and_covers_name_rows_labels_and_splits(tmp_path):
    first = store(tmp_path, chunk=7).key
    assert store(tmp_path, chunk=50).key == first
    changed = images()
    changed[49, 0, 7, 7] ^= 1
    others = {
        store(tmp_path, name="other").key,
        store(tmp_path, rows=changed).key,
        store(tmp_path, labels=np.zeros(50, np.int64)).key,
        store(tmp_path, splits=np.zeros(50, np.uint8)).key,
        store(tmp_path, classes=11, labels=np.arange(50) % 10).key,
    }
    assert first not in others
    assert len(others) == 5
    assert sorted(others | {first}) == open_store(tmp_path).rows.keys()


def test_erased_rows_leave_no_byte_in_the_array_directory(tmp_path):
    rows = np.random.default_rng(5).integers(1, 256, size=(40, 96), dtype=np.uint8)
    written = store(tmp_path, rows=rows)
    before = {f: f.read_bytes() for f in directory(tmp_path, written.key).iterdir()}
    assert any(rows[17].tobytes() in content for content in before.values())

    open_store(tmp_path).rows.erase(written.key, [17, 3, 39])

    for file in directory(tmp_path, written.key).iterdir():
        content = file.read_bytes()
        for row in (3, 17, 39):
            pieces = [rows[row, start : start + 8].tobytes() for start in range(0, 96, 8)]
            assert not any(piece in content for piece in pieces), file.name
    array = open_store(tmp_path).rows.open(written.key)
    kept = np.setdiff1d(np.arange(40), [3, 17, 39])
    np.testing.assert_array_equal(array.rows[kept], rows[kept])
    np.testing.assert_array_equal(array.labels[kept], kept % 10)
    assert not array.rows[[3, 17, 39]].any()
    assert not array.labels[[3, 17, 39]].any()


def test_erasure_also_removes_the_digest_by_which_a_guess_could_be_confirmed(tmp_path):
    key = store(tmp_path).key
    digests = np.load(directory(tmp_path, key) / "digests.npy")
    open_store(tmp_path).rows.erase(key, [9])
    for file in directory(tmp_path, key).iterdir():
        assert digests[9].tobytes() not in file.read_bytes()


def test_erasure_is_seen_through_maps_that_are_open_already(tmp_path):
    key = store(tmp_path).key
    array = open_store(tmp_path).rows.open(key)
    assert array.rows[4].any()
    open_store(tmp_path).rows.erase(key, [4])
    assert not array.rows[4].any()


def test_erasing_twice_is_the_same_as_once_and_verifies(tmp_path):
    key = store(tmp_path).key
    open_store(tmp_path).rows.erase(key, [1, 2, 2])
    open_store(tmp_path).rows.erase(key, [2, 1])
    open_store(tmp_path).rows.erase(key, [])
    open_store(tmp_path).rows.verify(key)
    assert open_store(tmp_path).rows.erased(key).tolist() == [1, 2]


def test_interrupted_erasure_is_found_and_finished_by_repeating_it(tmp_path):
    key = store(tmp_path).key
    file = directory(tmp_path, key) / "digests.npy"
    digests = np.load(file)
    digests[6] = 0  # what a crash after the first step leaves
    np.save(file, digests)
    with pytest.raises(errors.CorruptArray, match="erasure of row 6 is unfinished"):
        open_store(tmp_path).rows.verify(key)
    open_store(tmp_path).rows.erase(key, open_store(tmp_path).rows.erased(key))
    open_store(tmp_path).rows.verify(key)


def test_an_erasure_that_fails_at_the_rows_counts_them_as_erased_already(tmp_path):
    rows = images(shape=(1, 32, 32))
    key = store(tmp_path, rows=rows).key
    home = directory(tmp_path, key)
    limit = (home / "digests.npy").stat().st_size
    # No byte may be written behind the limit: the digests are in front of it, row 40 is not.
    program = """
        import resource, signal, sys
        from models_store import open_store
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
        open_store(sys.argv[1]).rows.erase(sys.argv[2], [40])
    """
    failed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), key, str(limit)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "File too large" in failed.stderr
    assert open_store(tmp_path).rows.open(key).rows[40].any()
    assert open_store(tmp_path).rows.erased(key).tolist() == [40]
    with pytest.raises(errors.CorruptArray, match="erasure of row 40 is unfinished"):
        open_store(tmp_path).rows.verify(key)


def test_what_overwrites_a_row_is_on_the_disk_before_the_next_step(tmp_path, monkeypatch):
    """Digests, then rows, then labels; what comes later is not begun before the disk has it."""
    key = store(tmp_path).key
    steps = watched(monkeypatch)
    open_store(tmp_path).rows.erase(key, [4, 9])
    assert steps == [
        (done, f"{name}.npy")
        for name in ("digests", "rows", "labels")
        for done in ("written", "written", "flushed")
    ]


def test_what_is_destroyed_is_on_the_disk_as_zeros_before_it_is_unlinked(tmp_path, monkeypatch):
    key = store(tmp_path).key
    files = {file.name for file in directory(tmp_path, key).iterdir()}
    flushed, real = set(), os.fsync

    def fsync(handle):
        file = Path(f"/proc/self/fd/{handle}")
        if file.is_file() and not any(file.read_bytes()):
            flushed.add(file.readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    open_store(tmp_path).rows.delete(key)
    assert flushed == files


def test_what_is_stored_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed, named = set(), []
    real, rename = os.fsync, Path.rename

    def fsync(handle):
        flushed.add(os.fstat(handle).st_ino)
        real(handle)

    def checked(self, target):
        if self.is_dir():
            inside = {file.stat().st_ino for file in [self, *self.iterdir()]}
            named.append((inside <= flushed, len(inside)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", checked)
    key = store(tmp_path).key
    assert named == [(True, 1 + len(list(directory(tmp_path, key).iterdir())))]


def watched(monkeypatch):
    """What is written and flushed from now on, with the file's name; everything is still done."""
    steps = []

    def watch(call, done):
        real = getattr(os, call)

        def act(handle, *arguments):
            steps.append((done, Path(f"/proc/self/fd/{handle}").readlink().name))
            return real(handle, *arguments)

        monkeypatch.setattr(os, call, act)

    watch("pwrite", "written")
    watch("fsync", "flushed")
    return steps


@pytest.mark.parametrize("rows", [[50], [-1], [3, 1000]])
def test_rows_outside_the_array_are_refused_and_nothing_is_overwritten(tmp_path, rows):
    key = store(tmp_path).key
    with pytest.raises(errors.InvalidRows, match="does not exist"):
        open_store(tmp_path).rows.erase(key, rows)
    np.testing.assert_array_equal(open_store(tmp_path).rows.open(key).rows, images())


def test_erased_dataset_cannot_be_stored_again_under_its_name(tmp_path):
    key = store(tmp_path).key
    open_store(tmp_path).rows.erase(key, [0])
    with pytest.raises(errors.ErasedContent, match="1 of its rows"):
        store(tmp_path)
    assert not open_store(tmp_path).rows.open(key).rows[0].any()
    assert [p.name for p in (tmp_path / "arrays").iterdir()] == [key]


@pytest.mark.parametrize("name", ["rows.npy", "labels.npy", "splits.npy", "digests.npy"])
def test_a_flipped_byte_in_any_file_is_found(tmp_path, name):
    key = store(tmp_path).key
    flip_byte(directory(tmp_path, key) / name, -5)
    with pytest.raises(errors.CorruptArray):
        open_store(tmp_path).rows.verify(key)


def test_every_flipped_byte_of_manifest_or_header_is_found_when_opening(tmp_path):
    key = store(tmp_path).key
    manifest = directory(tmp_path, key) / "manifest.json"
    sound = manifest.read_bytes()
    for position in range(len(sound)):
        flip_byte(manifest, position)
        with pytest.raises(errors.CorruptArray):
            open_store(tmp_path).rows.open(key)
        manifest.write_bytes(sound)
    for position in (0, 20, 70, 127):
        flip_byte(directory(tmp_path, key) / "rows.npy", position)
        with pytest.raises(errors.CorruptArray):
            open_store(tmp_path).rows.open(key)
        flip_byte(directory(tmp_path, key) / "rows.npy", position)
    open_store(tmp_path).rows.verify(key)


def test_a_file_cut_short_is_found_when_opening(tmp_path):
    key = store(tmp_path).key
    file = directory(tmp_path, key) / "rows.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(errors.CorruptArray, match=r"rows\.npy"):
        open_store(tmp_path).rows.open(key)


def test_storing_again_replaces_a_damaged_copy(tmp_path):
    key = store(tmp_path).key
    flip_byte(directory(tmp_path, key) / "rows.npy", -1)
    assert store(tmp_path).key == key
    open_store(tmp_path).rows.verify(key)


def test_writer_that_is_left_early_leaves_nothing(tmp_path):
    def fail_after_one_chunk():
        with open_store(tmp_path).rows.writer(name="x", dtype=np.uint8, shape=(1, 8, 8)) as writer:
            writer.append(images(), np.zeros(50, np.int64))
            raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        fail_after_one_chunk()
    assert list((tmp_path / "arrays").iterdir()) == []


def test_rows_of_a_dataset_that_is_given_up_are_overwritten(tmp_path):
    def fail_with_the_file_open():
        with open_store(tmp_path).rows.writer(name="x", dtype=np.uint8, shape=(1, 8, 8)) as writer:
            writer.append(images(50_000), np.zeros(50_000, np.int64))
            opened.append(next((tmp_path / "arrays").glob(".new-*/rows.npy")).open("rb"))
            raise RuntimeError("the source broke")

    opened = []
    with pytest.raises(RuntimeError, match="source broke"):
        fail_with_the_file_open()
    with opened[0] as stream:
        left = stream.read()
    assert len(left) > 50_000 * 64
    assert not any(left)


def test_rows_that_do_not_fit_the_array_are_refused(tmp_path):
    with open_store(tmp_path).rows.writer(name="x", dtype=np.uint8, shape=(1, 8, 8)) as writer:
        with pytest.raises(errors.InvalidRows):
            writer.append(images(shape=(1, 8, 9)), np.zeros(50, np.int64))
        with pytest.raises(errors.InvalidRows):
            writer.append(images().astype(np.float32), np.zeros(50, np.int64))
        with pytest.raises(errors.InvalidRows):
            writer.append(images(), np.zeros(49, np.int64))
    with pytest.raises(errors.InvalidRows, match="uint8, float32, int32"):
        with_dtype(tmp_path, np.float64)


def with_dtype(root, dtype):
    with open_store(root).rows.writer(name="x", dtype=dtype, shape=(1,)):
        pass


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": np.full(50, 10)}, "Labels"),
        ({"labels": np.full(50, -1)}, "Labels"),
        ({"splits": np.full(50, 3, np.uint8)}, "Splits"),
        ({"splits": np.zeros(49, np.uint8)}, "Splits"),
        ({"rows": images(n=0), "splits": np.zeros(0, np.uint8)}, "no rows"),
    ],
)
def test_labels_splits_and_count_are_checked_at_the_end(tmp_path, change, reason):
    with pytest.raises(errors.InvalidRows, match=reason):
        store(tmp_path, **change)
    assert open_store(tmp_path).rows.keys() == []


def test_destroy_removes_everything_and_may_be_repeated(tmp_path):
    key = store(tmp_path).key
    assert open_store(tmp_path).rows.delete(key)
    assert not open_store(tmp_path).rows.delete(key)
    assert list((tmp_path / "arrays").iterdir()) == []
    with pytest.raises(errors.NotStored):
        open_store(tmp_path).rows.open(key)


@pytest.mark.parametrize("key", ["../../etc", "", "A" * 64, "0" * 63, "0" * 64 + "/.."])
def test_a_name_that_is_no_digest_cannot_leave_the_store(tmp_path, key):
    with pytest.raises(errors.NotStored):
        open_store(tmp_path).rows.open(key)
    with pytest.raises(errors.NotStored):
        open_store(tmp_path).rows.delete(key)
