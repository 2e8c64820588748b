"""What the protocols promise, held by a directory and by a bucket of a real S3 server."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from models_store import Store, errors, open_store, tensors
from models_store.opening import open_ticket
from tests.s3 import Server
from workers.stores import LedgerKeys

ROWS = np.random.default_rng(3).integers(1, 256, size=(50, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(50) % 10
SPLITS = (np.arange(50) % 3).astype(np.uint8)


@pytest.fixture(params=["directory", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, sqlite_database: Engine) -> Store:
    if request.param == "directory":
        return open_store(tmp_path / "store")
    server: Server = request.getfixturevalue("s3_environment")
    return open_store(
        f"s3://{server.bucket()}/some/prefix",
        data_keys=LedgerKeys(sqlite_database),
        scratch=tmp_path / "scratch",
    )


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of seven rows, so that a small dataset has several."""
    shards = pytest.importorskip("models_store.object_store.shards")
    monkeypatch.setattr(shards, "MOST_ROWS", 7)


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(seed).normal(size=(40, 9)).astype(np.float32)}


def save(store: Store, seed: int = 0, **manifest: object) -> str:
    return tensors.save(store.blobs, weights(seed), manifest, kind="checkpoints").digest


def write(store: Store, *, name: str = "digits", rows: np.ndarray = ROWS, chunk: int = 8) -> str:
    with store.rows.writer(name=name, dtype=rows.dtype, shape=rows.shape[1:]) as writer:
        for start in range(0, len(rows), chunk):
            here = slice(start, start + chunk)
            writer.append(rows[here], LABELS[here])
        return writer.finish(splits=SPLITS, classes=10, source={"file": "digits.csv"}).key


def test_a_blob_is_named_by_its_bytes_and_reads_back_with_its_manifest(store: Store) -> None:
    digest = save(store, origin="trained")
    with store.blobs.open("checkpoints", digest) as stream:
        content = stream.read()
    assert hashlib.sha256(content).hexdigest() == digest
    assert store.blobs.size("checkpoints", digest) == len(content)
    assert store.blobs.manifest("checkpoints", digest) == {"origin": "trained"}
    loaded = tensors.load(store.blobs, digest, kind="checkpoints")
    np.testing.assert_array_equal(loaded["w"], weights()["w"])
    store.blobs.verify("checkpoints", digest)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (7, 900), (1000, None), (20, 20)])
def test_a_range_of_a_blob_is_read(store: Store, start: int, stop: int | None) -> None:
    digest = save(store)
    with store.blobs.open("checkpoints", digest) as stream:
        whole = stream.read()
    with store.blobs.open("checkpoints", digest, start, stop) as stream:
        assert stream.read() == whole[start:stop]


def test_the_first_manifest_of_a_blob_stays(store: Store) -> None:
    assert save(store, seed=0, note=1) == save(store, seed=0, note=2)
    assert store.blobs.manifest("checkpoints", save(store)) == {"note": 1}
    assert store.blobs.digests("checkpoints") == [save(store)]


def test_blobs_of_other_kinds_and_names_are_not_stored(store: Store) -> None:
    digest = save(store)
    assert store.blobs.exists("checkpoints", digest)
    assert not store.blobs.exists("caches", digest)
    for look in (store.blobs.open, store.blobs.manifest, store.blobs.size, store.blobs.verify):
        with pytest.raises(errors.NotStored):
            look("caches", digest)
    for name in ("../x", "", "A" * 64, "0" * 63):
        with pytest.raises(errors.NotStored, match="Not a digest"):
            store.blobs.open("checkpoints", name)
    with pytest.raises(ValueError, match="Unknown kind"):
        store.blobs.digests("../outside")  # type: ignore[arg-type]  # on purpose


def test_a_blob_that_is_deleted_is_gone_and_may_be_deleted_again(store: Store) -> None:
    digest = save(store)
    assert store.blobs.delete("checkpoints", digest)
    assert not store.blobs.delete("checkpoints", digest)
    assert store.blobs.digests("checkpoints") == []
    with pytest.raises(errors.NotStored):
        tensors.load(store.blobs, digest, kind="checkpoints")
    assert save(store) == digest


def test_what_is_stored_again_after_it_was_unlinked_is_another_copy(store: Store) -> None:
    digest = save(store)
    assert store.blobs.unlink("checkpoints", digest)
    assert not store.blobs.exists("checkpoints", digest)
    assert not store.blobs.unlink("checkpoints", digest)
    assert save(store) == digest
    store.blobs.discard("checkpoints", digest)
    store.blobs.verify("checkpoints", digest)
    store.blobs.discard("checkpoints", digest)
    assert store.blobs.digests("checkpoints") == [digest]


def test_blobs_are_old_from_some_time_after_they_were_last_put(store: Store) -> None:
    digest = save(store)
    assert store.blobs.old("checkpoints", seconds=3600) == []
    assert store.blobs.old("checkpoints", seconds=0) == [digest]
    assert store.blobs.old("caches", seconds=0) == []


def test_only_old_blobs_that_nobody_keeps_are_swept(store: Store) -> None:
    kept, orphan = save(store, 1), save(store, 2)
    sweep = store.blobs.sweep
    assert sweep("checkpoints", keep={kept}, older_than_seconds=3600) == []
    assert sweep("checkpoints", keep={kept}, older_than_seconds=0) == [orphan]
    assert store.blobs.digests("checkpoints") == [kept]


def test_an_upload_becomes_a_blob_with_its_bytes(store: Store) -> None:
    content = b"".join(tensors.Serialized(weights()).pieces())
    upload = store.receive(leftover_seconds=3600)
    upload.write(content[:100])
    upload.write(content[100:])
    with upload.open() as received:
        assert received.read() == content
    saved = upload.keep("checkpoints", {"origin": "imported"})
    upload.discard()
    assert saved.digest == hashlib.sha256(content).hexdigest()
    assert saved.size_bytes == len(content)
    with store.blobs.open("checkpoints", saved.digest) as stream:
        assert stream.read() == content


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rows_read_back_as_they_were_written_in_chunks(store: Store, dtype: type) -> None:
    key = write(store, rows=ROWS.astype(dtype))
    array = store.rows.open(key)
    assert (len(array), array.rows.dtype) == (50, np.dtype(dtype))
    np.testing.assert_array_equal(array.rows, ROWS)
    np.testing.assert_array_equal(array.labels, LABELS)
    np.testing.assert_array_equal(array.splits, SPLITS)
    assert array.manifest["source"] == {"file": "digits.csv"}
    assert store.rows.keys() == [key]
    assert store.rows.exists(key)
    store.rows.verify(key)


def test_a_dataset_has_one_key_wherever_and_in_whatever_chunks_it_is_written(
    store: Store, tmp_path: Path
) -> None:
    assert write(store) == write(open_store(tmp_path / "other"), chunk=50)
    assert write(store, chunk=3) == store.rows.keys()[0]
    store.rows.verify(write(store, name="others"))
    assert len(store.rows.keys()) == 2


@pytest.mark.usefixtures("small_shards")
def test_erased_rows_are_zeros_and_the_others_stay(store: Store) -> None:
    key = write(store)
    before = store.rows.digests(key, [3, 17, 4])
    store.rows.erase(key, [17, 3, 49])
    store.rows.erase(key, [3])
    store.rows.erase(key, [])
    array = store.rows.open(key)
    gone = np.isin(np.arange(50), [3, 17, 49])
    assert not array.rows[gone].any()
    assert not array.labels[gone].any()
    np.testing.assert_array_equal(array.rows[~gone], ROWS[~gone])
    np.testing.assert_array_equal(array.labels[~gone], LABELS[~gone])
    np.testing.assert_array_equal(array.splits, SPLITS)
    assert store.rows.erased(key).tolist() == [3, 17, 49]
    read = store.rows.read(key, [48, 3, 0, 48])
    np.testing.assert_array_equal(read, [ROWS[48], np.zeros_like(ROWS[0]), ROWS[0], ROWS[48]])
    after = store.rows.digests(key, [3, 17, 4])
    assert before.any(axis=1).all()
    assert after.any(axis=1).tolist() == [False, False, True]
    store.rows.verify(key)


@pytest.mark.parametrize("rows", [[50], [-1], [3, 1000]])
def test_rows_that_do_not_exist_are_refused_and_nothing_is_erased(
    store: Store, rows: list[int]
) -> None:
    key = write(store)
    with pytest.raises(errors.InvalidRows, match="does not exist"):
        store.rows.erase(key, rows)
    with pytest.raises(errors.InvalidRows, match="does not exist"):
        store.rows.read(key, rows)
    assert store.rows.erased(key).tolist() == []


def test_a_dataset_with_erased_rows_is_not_written_again(store: Store) -> None:
    key = write(store)
    store.rows.erase(key, [0])
    with pytest.raises(errors.ErasedContent, match="1 of its rows"):
        write(store)
    assert store.rows.keys() == [key]
    assert store.rows.erased(key).tolist() == [0]


def test_a_dataset_that_is_deleted_is_gone_and_may_be_written_again(store: Store) -> None:
    key = write(store)
    assert store.rows.delete(key)
    assert not store.rows.delete(key)
    assert store.rows.keys() == []
    with pytest.raises(errors.NotStored):
        store.rows.open(key)
    assert write(store) == key
    store.rows.verify(key)


def test_a_writer_that_is_left_early_leaves_no_dataset(store: Store) -> None:
    def broken() -> None:
        with store.rows.writer(name="x", dtype=np.uint8, shape=(1, 8, 8)) as writer:
            writer.append(ROWS, LABELS)
            raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        broken()
    assert store.rows.keys() == []


def test_only_old_datasets_that_nobody_keeps_are_swept(store: Store) -> None:
    kept, orphan = write(store), write(store, name="other")
    assert [store.rows.name(key) for key in (kept, orphan)] == ["digits", "other"]
    assert store.rows.sweep(keep={kept}, older_than_seconds=3600) == []
    assert store.rows.sweep(keep={kept}, older_than_seconds=0) == [orphan]
    assert store.rows.keys() == [kept]
    store.rows.verify(kept)


def test_another_process_reads_blobs_and_rows_with_a_ticket(store: Store) -> None:
    key, digest = write(store), save(store)
    ticket = store.ticket(key)
    other = open_ticket(ticket)
    np.testing.assert_array_equal(other.rows.open(key).rows, ROWS)
    assert other.blobs.exists("checkpoints", digest)
    store.rows.erase(key, [5])
    again = open_ticket(store.ticket(key), earlier=other)
    assert not again.rows.open(key).rows[5].any()


def test_arrays_of_one_dataset_are_read_beside_each_other(store: Store) -> None:
    keys = [write(store, name="digits"), write(store, name="digits/more", rows=255 - ROWS)]
    other = open_ticket(store.ticket(*keys))
    first = [other.rows.open(key, beside=keys) for key in keys]
    np.testing.assert_array_equal(first[1].rows, 255 - ROWS)
    store.rows.erase(keys[0], [5])
    again = open_ticket(store.ticket(*keys), earlier=other)
    found = [again.rows.open(key, beside=keys) for key in keys]
    assert not found[0].rows[5].any()
    np.testing.assert_array_equal(np.delete(found[0].rows, 5, 0), np.delete(ROWS, 5, 0))
    np.testing.assert_array_equal(found[1].rows, 255 - ROWS)


def test_a_store_that_answers_passes_its_check(store: Store) -> None:
    store.check()
    save(store)
    store.check()
