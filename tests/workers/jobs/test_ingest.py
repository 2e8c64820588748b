import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from models_store import errors, open_store
from service.ledger.registry import datasets as datasets_of_ledger
from service.settings import Settings
from workers.compute.process import ComputeProcess
from workers.jobs import ingest
from workers.readers import Columns, ReadError
from workers.runtime import Runtime
from workers.sources import reading
from workers.sources.splits import stratify


@pytest.fixture
def digits(tmp_path):
    """The 1,797 digits as NPZ, with subjects of five records each."""
    found = datasets.load_digits()
    path = tmp_path / "digits.npz"
    np.savez(
        path,
        x=found.images.astype(np.uint8),
        y=found.target,
        subject_id=np.array([f"person-{i // 5}" for i in range(len(found.target))]),
    )
    return path


def write_csv(path, header, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def store(tmp_path, source, **options):
    rows = open_store(tmp_path / "store").rows
    return reading.read_into_store(source, **{"rows": rows, "name": "x", **options})


def test_real_images_are_stored_with_their_labels_subjects_and_splits(tmp_path, digits):
    found = store(tmp_path, digits)
    array = open_store(tmp_path / "store").rows.open(found.key)
    real = datasets.load_digits()
    assert (found.rows, found.shape, found.dtype, found.classes) == (1797, (1, 8, 8), "uint8", 10)
    np.testing.assert_array_equal(array.rows[:, 0], real.images)
    np.testing.assert_array_equal(array.labels, real.target)
    np.testing.assert_array_equal(array.labels, found.labels)
    np.testing.assert_array_equal(array.splits, found.splits)
    assert found.record_ids == [f"row-{i:06}" for i in range(1797)]
    assert found.subject_ids == [f"person-{i // 5}" for i in range(1797)]
    assert array.manifest["source"] == {
        "file": "digits.npz",
        "format": "npz",
        "split_seed": 0,
        "fractions": [0.8, 0.1, 0.1],
    }
    open_store(tmp_path / "store").rows.verify(found.key)


def test_subjects_stay_out_of_the_store_and_of_the_result_in_print(tmp_path, digits):
    found = store(tmp_path, digits)
    assert "person-" not in repr(found)
    for file in (tmp_path / "store").rglob("*.*"):
        if file.is_file():
            assert b"person-" not in file.read_bytes()


def test_the_same_file_and_seed_give_the_same_key_and_another_seed_or_name_do_not(tmp_path, digits):
    keys = [
        store(tmp_path, digits, **options).key
        for options in ({}, {}, {"seed": 1}, {"name": "another"})
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_every_class_is_split_in_the_asked_shares(tmp_path, digits):
    found = store(tmp_path, digits, fractions=(0.7, 0.2, 0.1))
    for label in range(10):
        counts = np.bincount(found.splits[found.labels == label], minlength=3)
        np.testing.assert_allclose(counts, counts.sum() * np.array([0.7, 0.2, 0.1]), atol=2)
    np.testing.assert_allclose(np.bincount(found.splits), np.array([0.7, 0.2, 0.1]) * 1797, atol=3)


def test_the_split_is_random_within_a_class():
    labels = np.zeros(1000, np.int64)
    first, second = (stratify(labels, (0.5, 0.25, 0.25), seed) for seed in (1, 2))
    assert 0.2 < (first != second).mean() < 0.9
    together = np.corrcoef(first[:-1], first[1:])[0, 1]
    assert abs(together) < 0.15  # neighbours in the file do not tell each other's split


def test_small_classes_share_the_held_out_rows_and_keep_a_training_row():
    labels = np.repeat(np.arange(200), 3)
    splits = stratify(labels, (0.8, 0.1, 0.1), seed=0)
    assert set(labels[splits == 0]) == set(range(200))
    assert 50 <= (splits == 1).sum() <= 70
    assert 50 <= (splits == 2).sum() <= 70
    singles = stratify(np.arange(40), (0.8, 0.1, 0.1), seed=0)
    assert not singles.any()


def test_split_and_record_columns_are_taken_as_they_are(tmp_path):
    rows = [["b", "audit", 1, 0.5], ["a", "train", 0, 1.5], ["c", "validation", 1, 2.5]]
    path = write_csv(tmp_path / "x.csv", ["record_id", "split", "label", "v"], rows)
    found = store(tmp_path, path)
    assert found.record_ids == ["b", "a", "c"]
    assert found.splits.tolist() == [2, 0, 1]
    assert found.subject_ids is None
    manifest = open_store(tmp_path / "store").rows.open(found.key).manifest
    assert manifest["source"] == {"file": "x.csv", "format": "csv"}


@pytest.mark.parametrize("last", ["1,oops", "1,inf", "7,1", ",1", "1,1,1", "-1,1"])
def test_a_fault_in_the_last_row_leaves_nothing_in_the_store(tmp_path, last):
    path = tmp_path / "x.csv"
    line = f"1,0.25{'0' * 500}\n"
    path.write_text("label,v\n" + line * 10_000 + last + "\n")  # more than one block
    with pytest.raises(ReadError) as caught:
        store(tmp_path, path, classes=2)
    assert caught.value.row == 10_001
    assert list((tmp_path / "store" / "arrays").iterdir()) == []


def test_rows_of_a_refused_source_are_overwritten(tmp_path):
    path = tmp_path / "x.csv"
    line = f"1,0.25{'0' * 500}\n"
    path.write_text("label,v\n" + line * 10_000 + "1,oops\n")  # more than one block
    opened = []
    arrays_home = tmp_path / "store" / "arrays"

    def look(_done, _expected):
        opened.append(next(arrays_home.glob(".new-*/rows.npy")).open("rb"))

    with pytest.raises(ReadError):
        store(tmp_path, path, classes=2, progress=look)
    assert opened
    for stream in opened:
        with stream:
            left = stream.read()
        assert len(left) > 4
        assert not any(left)


def test_rows_of_an_ingest_that_fails_after_they_were_stored_are_overwritten(
    tmp_path, database, faults
):
    settings = Settings(
        _env_file=None,
        mode="development",
        state_dir=tmp_path,
        database_url=database.url.render_as_string(hide_password=False),
    )
    runtime = Runtime(settings, database, ComputeProcess(device="cpu", threads=1), owner="w")
    rows = [["a", 1, 0.5], ["b", 0, 1.5], ["c", 1, 2.5]]
    path = write_csv(tmp_path / "x.csv", ["record_id", "label", "v"], rows)
    with runtime.session() as session:
        made = datasets_of_ledger.create(
            session, "x", source={"path": "x.csv"}, actor="cli", now=runtime.now()
        )
    opened = []

    def look(_done, _expected):
        opened.append(next((settings.store / "arrays").glob(".new-*/rows.npy")).open("rb"))

    (faults / "ingest.stored").write_text("full_disk")
    with runtime.lease(ingest.lease_key(made.id)) as held:
        refused = ingest.ingest(runtime, made.id, path, held=held, progress=look)
    assert "No space left" in refused
    assert list((settings.store / "arrays").iterdir()) == []
    with opened[0] as stream:
        left = stream.read()
    assert len(left) > 3 * 4
    assert not any(left)


def test_classes_are_inferred_or_given(tmp_path):
    path = write_csv(tmp_path / "x.csv", ["label", "v"], [[0, 1], [2, 2], [1, 3]])
    assert store(tmp_path, path).classes == 3
    assert store(tmp_path, path, classes=7).classes == 7


def test_a_label_larger_than_the_number_of_rows_is_a_mistake_unless_classes_are_given(tmp_path):
    path = write_csv(tmp_path / "x.csv", ["label", "v"], [[0, 1], [19990101, 2], [1, 3]])
    with pytest.raises(ReadError, match="Row 2, column 'label'"):
        store(tmp_path, path)
    assert open_store(tmp_path / "store").rows.keys() == []
    assert store(tmp_path, path, classes=19990102).classes == 19990102


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_shares_that_do_not_sum_to_one_are_refused(tmp_path, digits, fractions):
    with pytest.raises(ReadError, match="sum to 1"):
        store(tmp_path, digits, fractions=fractions)


def test_progress_counts_every_row_and_ends_at_the_total(tmp_path):
    path = write_csv(
        tmp_path / "x.csv", ["label", "v"], ([i % 2, f"0.{i:0500}"] for i in range(10_000))
    )
    told = []
    store(tmp_path, path, progress=lambda done, expected: told.append((done, expected)))
    assert len(told) > 1
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == 10_000
    assert all(done <= expected for done, expected in told)


def test_a_file_whose_records_were_erased_cannot_be_stored_again(tmp_path, digits):
    found = store(tmp_path, digits)
    open_store(tmp_path / "store").rows.erase(found.key, [5])
    with pytest.raises(errors.ErasedContent):
        store(tmp_path, digits)
    assert open_store(tmp_path / "store").rows.keys() == [found.key]


@pytest.mark.skipif(
    "UNLEARN_CIFAR" not in os.environ, reason="UNLEARN_CIFAR names no directory with CIFAR-10"
)
def test_cifar10_from_the_hub_is_stored_within_its_memory(tmp_path):
    source = Path(os.environ["UNLEARN_CIFAR"]) / "cifar10-train.parquet"
    program = (
        "import resource, sys; from models_store import open_store; "
        "from workers.sources import reading; "
        "stored = open_store(sys.argv[2]).rows; "
        "found = reading.read_into_store(sys.argv[1], rows=stored, name='c'); "
        "print(found.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, source, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 50_000
    assert kilobytes < 1.5 * 2**20


def test_columns_can_be_given(tmp_path):
    path = write_csv(tmp_path / "x.csv", ["who", "kind", "v"], [["a", 0, 1], ["b", 1, 2]])
    found = store(tmp_path, path, columns=Columns(subject_id="who", label="kind"))
    assert found.subject_ids == ["a", "b"]
