"""Every reader on a small file in its official layout, written here."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from sklearn import datasets

from service.ledger.database import identifiers
from tests.workers.reader_files import read, write_csv
from workers import readers
from workers.readers import Columns

# CSV


def test_csv_of_real_digits_reads_back_exactly_with_all_parts(tmp_path):
    x, y = datasets.load_digits(return_X_y=True)
    splits = ["train", "validation", "audit"]
    path = write_csv(
        tmp_path / "digits.csv",
        ["record_id", "subject_id", "split", "label", *(f"p{i}" for i in range(64))],
        [[f"r{i}", f"s{i // 10}", splits[i % 3], y[i], *x[i].astype(int)] for i in range(len(y))],
    )
    found, source = read(path)
    assert source.format == "csv"
    assert found.x.dtype == np.uint8
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.labels, y)
    assert found.record_ids == [f"r{i}" for i in range(len(y))]
    assert found.subject_ids == [f"s{i // 10}" for i in range(len(y))]
    np.testing.assert_array_equal(found.splits, np.arange(len(y)) % 3)
    assert len(y) * 0.8 < source.rows < len(y) * 1.25


@pytest.mark.parametrize(
    ("odd", "dtype"),
    [("7", np.uint8), ("7.0", np.float32), ("-1", np.float32), ("256", np.float32)],
)
def test_csv_is_uint8_only_when_every_value_is_an_integer_up_to_255(tmp_path, odd, dtype):
    path = write_csv(tmp_path / "x.csv", ["a", "label", "b"], [[1, 0, 2], [3, 1, 255], [4, 0, odd]])
    found, _ = read(path)
    assert found.x.dtype == dtype
    np.testing.assert_array_equal(found.x, np.array([[1, 2], [3, 255], [4, float(odd)]], dtype))


def test_csv_columns_can_be_named_and_chosen(tmp_path):
    path = write_csv(
        tmp_path / "x.csv",
        ["email", "outcome", "note", "height", "age"],
        [["a@x", 1, "hello, you", 1.5, 30], ["b@x", 0, 'say "hi"', 2.5, 40]],
    )
    columns = Columns(subject_id="email", label="outcome", features=["age", "height"])
    found, _ = read(path, columns=columns)
    np.testing.assert_array_equal(found.x, np.array([[30, 1.5], [40, 2.5]], np.float32))
    assert found.subject_ids == ["a@x", "b@x"]
    assert found.record_ids is None
    assert found.labels.tolist() == [1, 0]


@pytest.mark.seconds
def test_csv_longer_than_a_block_keeps_its_order(tmp_path):
    n = 120_000
    values = np.random.default_rng(0).normal(size=(n, 4)).round(9)
    path = write_csv(
        tmp_path / "x.csv",
        ["id", "label", "a", "b", "c", "d"],
        ([i, i % 7, *row] for i, row in enumerate(values.tolist())),
    )
    source = readers.open_source(path)
    chunks = list(source.chunks)
    assert len(chunks) > 1
    np.testing.assert_array_equal(np.concatenate([c.x for c in chunks]), values.astype(np.float32))
    assert [i for c in chunks for i in c.record_ids] == [str(i) for i in range(n)]
    assert n * 0.8 < source.rows < n * 1.2


def test_csv_with_byte_order_mark_crlf_and_blank_lines(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbflabel,a\r\n0,1.5\r\n\r\n1,2.5\r\n")
    found, _ = read(path)
    assert found.labels.tolist() == [0, 1]
    assert found.x.tolist() == [[1.5], [2.5]]


@pytest.mark.seconds
@pytest.mark.parametrize("rows", [3, 15_000])
def test_csv_with_line_breaks_in_quotes_keeps_every_record_whole(tmp_path, rows):
    notes = [f'said "no",\nthen left\r\n{i},0,1,x\n' + "." * 400 for i in range(rows)]
    path = write_csv(
        tmp_path / "x.csv",
        ["id", "label", "a", "note\nof the visit"],
        ([f"r{i}", i % 2, i % 7 + 0.5, note] for i, note in enumerate(notes)),
    )
    found, _ = read(path, columns=Columns(ignored=["note\nof the visit"]))
    assert found.record_ids == [f"r{i}" for i in range(rows)]
    np.testing.assert_array_equal(found.x[:, 0], np.arange(rows) % 7 + 0.5)
    by_note, _ = read(path, columns=Columns(subject_id="note\nof the visit"))
    assert by_note.subject_ids == [identifiers.normalise(note) for note in notes]


def test_csv_record_longer_than_a_block_is_read(tmp_path):
    long = "a line\n" * 1_500_000
    rows = [["r0", 0, 0.5, "x"], ["r1", 1, 1.5, long], ["r2", 0, 2.5, "y"]]
    path = write_csv(tmp_path / "x.csv", ["id", "label", "a", "note"], rows)
    found, _ = read(path, columns=Columns(ignored=["note"]))
    assert found.record_ids == ["r0", "r1", "r2"]
    assert found.x.tolist() == [[0.5], [1.5], [2.5]]


def test_csv_fault_behind_a_long_note_is_named_by_its_row(tmp_path):
    rows = [["r0", 0, 0.5, "x\n" * 300_000], ["r1", 1, "oops", "y"]]
    path = write_csv(tmp_path / "x.csv", ["id", "label", "a", "note"], rows)
    with pytest.raises(readers.ReadError, match="Row 2, column 'a'"):
        read(path, columns=Columns(ignored=["note"]))


# Parquet


def test_parquet_numbers_are_uint8_or_float32_as_their_type_and_range_say(tmp_path):
    path = tmp_path / "x.parquet"
    table = {"a": pa.array([0, 255], pa.int64()), "b": pa.array([True, False]), "label": [1, 0]}
    pq.write_table(pa.table(table), path)
    found, source = read(path)
    assert (source.rows, source.exact) == (2, True)
    assert found.x.dtype == np.uint8
    np.testing.assert_array_equal(found.x, [[0, 1], [255, 0]])
    for odd in (pa.array([0, 256]), pa.array([-1, 3]), pa.array([0.0, 1.0], pa.float64())):
        pq.write_table(pa.table({**table, "a": odd}), path)
        found, _ = read(path)
        assert found.x.dtype == np.float32
        np.testing.assert_array_equal(found.x[:, 0], odd.to_numpy())


def test_parquet_of_many_row_groups_keeps_order_and_identifiers(tmp_path):
    n = 10_000
    path = tmp_path / "x.parquet"
    table = pa.table(
        {
            "y": pa.array(np.arange(n) % 5, pa.int8()),
            "a": np.arange(n) + 0.5,
            "id": np.arange(n),
            "subject": pa.array([f"s{i % 11}" for i in range(n)]).dictionary_encode(),
        }
    )
    pq.write_table(table, path, row_group_size=777)
    found, _ = read(path)
    np.testing.assert_array_equal(found.x[:, 0], np.arange(n) + 0.5)
    np.testing.assert_array_equal(found.labels, np.arange(n) % 5)
    assert found.record_ids == [str(i) for i in range(n)]
    assert found.subject_ids == [f"s{i % 11}" for i in range(n)]


@pytest.mark.parametrize(
    ("described", "names"),
    [
        ({"info": {"features": {"label": {"names": ["cat", "dog"]}}}}, ["cat", "dog"]),
        ({"info": {"features": {"label": {"dtype": "int64"}}}}, None),
        ({"info": None}, None),
        ([], None),
    ],
)
def test_parquet_of_the_hugging_face_hub_names_its_classes(tmp_path, described, names):
    table = pa.table({"a": [0.5, 1.5], "label": [0, 1]})
    metadata = {"huggingface": json.dumps(described)}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet")[1].class_names == names


# NPZ


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_real_digits_reads_back_exactly_with_all_parts(tmp_path, save):
    digits = datasets.load_digits()
    n = len(digits.target)
    path = tmp_path / "digits.npz"
    save(
        path,
        x=digits.images.astype(np.uint8),
        y=digits.target,
        record_id=np.array([f"r{i}" for i in range(n)]),
        subject_id=np.arange(n) // 3,
        split=np.array([b"train", b"validation", b"audit"])[np.arange(n) % 3],
    )
    found, source = read(path)
    assert (source.rows, source.exact) == (n, True)
    assert found.x.dtype == np.uint8
    np.testing.assert_array_equal(found.x, digits.images[:, None])
    np.testing.assert_array_equal(found.labels, digits.target)
    assert found.record_ids == [f"r{i}" for i in range(n)]
    assert found.subject_ids == [str(i // 3) for i in range(n)]
    np.testing.assert_array_equal(found.splits, np.arange(n) % 3)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.arange(12).reshape(3, 4), np.arange(12, dtype=np.uint8).reshape(3, 4)),
        (np.arange(12).reshape(3, 4) - 1, np.arange(-1, 11, dtype=np.float32).reshape(3, 4)),
        (np.full((3, 2), 1 / 3), np.full((3, 2), 1 / 3, np.float32)),
        (np.ones((3, 2), bool), np.ones((3, 2), np.uint8)),
        (
            np.arange(3 * 6 * 5 * 3).reshape(3, 6, 5, 3) % 251,
            (np.arange(3 * 6 * 5 * 3) % 251)
            .astype(np.uint8)
            .reshape(3, 6, 5, 3)
            .transpose(0, 3, 1, 2),
        ),
        (
            np.arange(3 * 3 * 4 * 5, dtype=np.uint8).reshape(3, 3, 4, 5),
            np.arange(3 * 3 * 4 * 5, dtype=np.uint8).reshape(3, 3, 4, 5),
        ),
    ],
    ids=["small ints", "negative ints", "floats", "bools", "channels last", "channels first"],
)
def test_npz_rows_keep_uint8_or_become_float32_and_channels_come_first(tmp_path, x, expected):
    np.savez(tmp_path / "x.npz", x=x, y=np.array([0, 1, 0]))
    found, _ = read(tmp_path / "x.npz")
    assert found.x.dtype == expected.dtype
    np.testing.assert_array_equal(found.x, expected)


def test_npz_larger_than_a_chunk_keeps_its_order(tmp_path):
    x = np.random.default_rng(0).normal(size=(3000, 1000))
    np.savez(tmp_path / "x.npz", x=x, labels=np.arange(3000.0) % 4)
    source = readers.open_source(tmp_path / "x.npz")
    chunks = list(source.chunks)
    assert len(chunks) > 1
    np.testing.assert_array_equal(np.concatenate([c.x for c in chunks]), x.astype(np.float32))
    np.testing.assert_array_equal(np.concatenate([c.labels for c in chunks]), np.arange(3000) % 4)


# CIFAR, SVHN, Purchase100 and Location30, image folders


def cifar_records(n, label_bytes, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, size=(n, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, size=(n, label_bytes), dtype=np.uint8)
    return pixels, labels, np.hstack([labels, pixels.reshape(n, -1)]).tobytes()


def test_cifar10_directory_gives_the_training_batches_in_order(tmp_path):
    batches = [cifar_records(6, 1, seed) for seed in range(5)]
    for number, (_, _, content) in enumerate(batches, start=1):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(content)
    (tmp_path / "test_batch.bin").write_bytes(cifar_records(4, 1, 9)[2])
    found, source = read(tmp_path)
    assert (source.format, source.rows, source.classes) == ("cifar10_binary", 30, 10)
    np.testing.assert_array_equal(found.x, np.concatenate([b[0] for b in batches]))
    np.testing.assert_array_equal(found.labels, np.concatenate([b[1][:, 0] for b in batches]))
    assert source.class_names is None
    (tmp_path / "batches.meta.txt").write_text("".join(f"thing {i}\n" for i in range(10)) + "\n")
    assert read(tmp_path)[1].class_names == [f"thing {i}" for i in range(10)]
    test, _ = read(tmp_path / "test_batch.bin")
    np.testing.assert_array_equal(test.x, cifar_records(4, 1, 9)[0])


@pytest.mark.parametrize(
    ("column", "position", "classes"),
    [(None, 1, 100), ("fine_label", 1, 100), ("coarse_label", 0, 20)],
)
def test_cifar100_has_a_coarse_and_a_fine_label(tmp_path, column, position, classes):
    pixels, labels, content = cifar_records(7, 2)
    (tmp_path / "train.bin").write_bytes(content)
    for path in (tmp_path, tmp_path / "train.bin"):
        found, source = read(path, columns=Columns(label=column))
        assert (source.format, source.classes) == ("cifar100_binary", classes)
        np.testing.assert_array_equal(found.x, pixels)
        np.testing.assert_array_equal(found.labels, labels[:, position])


@pytest.mark.parametrize("compressed", [False, True])
def test_svhn_label_ten_is_the_digit_zero(tmp_path, compressed):
    x = np.random.default_rng(0).integers(0, 256, size=(32, 32, 3, 12), dtype=np.uint8)
    y = np.array([10, *range(1, 10), 10, 1], np.uint8)[:, None]
    path = tmp_path / "train_32x32.mat"
    scipy.io.savemat(path, {"X": x, "y": y}, do_compression=compressed)
    found, source = read(path)
    assert (source.format, source.classes, source.rows) == ("svhn_mat", 10, 12)
    np.testing.assert_array_equal(found.labels, [0, *range(1, 10), 0, 1])
    for row in range(12):
        np.testing.assert_array_equal(found.x[row], x[..., row].transpose(2, 0, 1))


@pytest.mark.parametrize("quote", ["", '"'])
def test_membership_paper_tables_start_with_a_label_counted_from_one(tmp_path, quote):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 2, size=(50, 20)), rng.integers(1, 31, size=50)
    path = tmp_path / "dataset_location.csv"
    path.write_text(
        "".join(
            f"{quote}{label}{quote},{','.join(map(str, row))}\n"
            for label, row in zip(y, x, strict=True)
        )
    )
    found, source = read(path)
    assert source.format == "labelled_binary_csv"
    assert found.x.dtype == np.uint8
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.labels, y - 1)


def test_format_is_detected_or_given(tmp_path):
    assert set(readers.FORMATS) == {
        "csv",
        "parquet",
        "arrow",
        "json_lines",
        "npz",
        "cifar10_binary",
        "cifar100_binary",
        "svhn_mat",
        "labelled_binary_csv",
        "image_folder",
    }
    path = write_csv(tmp_path / "table.unknown", ["label", "a"], [[0, 1], [1, 2]])
    with pytest.raises(readers.ReadError, match="cannot be told"):
        readers.detect(path)
    assert read(path, "csv")[0].labels.tolist() == [0, 1]
