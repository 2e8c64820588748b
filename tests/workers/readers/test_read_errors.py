"""Every fault of a data file meets one error that names row and column, and quotes no value."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io

from tests.workers.readers.refused_files import PLANTED, at, fail, text
from workers.readers import Columns


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ("label,a\n0,1\nfoo,2\n", (2, "label"), "not an integer"),
        ("label,a\n0,1\n,2\n", (2, "label"), "missing"),
        ("label,a\n0,1\n-1,2\n", (2, "label"), "from 0 up"),
        ("label,a\n0,1\n0.5,2\n", (2, "label"), "not an integer"),
        ("label,a\n0,1\nnan,2\n", (2, "label"), "not an integer"),
        ("label,a\n0,1\n99999999999999999999,2\n", (2, "label"), "not an integer"),
        ("label,a,b\n0,1,2\n1,,2\n", (2, "a"), "value is missing"),
        ("label,a,b\n0,1,2\n1,3,nan\n", (2, "b"), "NaN, infinite"),
        ("label,a,b\n0,1,2\n1,3,-inf\n", (2, "b"), "NaN, infinite"),
        ("label,a,b\n0,1,2\n1,3,1e300\n", (2, "b"), "too large for float32"),
        (f"label,a,b\n0,1,2\n1,{PLANTED},2\n", (2, "a"), "not a number"),
        ("label,a,b\n0,1,2\n1,1_000,2\n", (2, "a"), "not a number"),
        ("label,a,b\n0,1,2\n1,\uff15,2\n", (2, "a"), "not a number"),
        (f"label,a,b\n0,1,2\n1,{PLANTED}\n", (2, None), "2 fields, expected 3"),
        (f"label,a\n0,1,{PLANTED}\n", (1, None), "3 fields, expected 2"),
        (f"id,label,a\n{PLANTED},0,1\nx,0,1\n{PLANTED},1,2\n", (3, "id"), "same as in row 1"),
        ("id,label,a\nx,0,1\n,0,1\n", (2, "id"), "identifier is missing"),
        ("subject,label,a\nx,0,1\n,0,1\n", (2, "subject"), "identifier is missing"),
        (f"split,label,a\ntrain,0,1\n{PLANTED},0,1\n", (2, "split"), "train, validation, audit"),
        ("split,label,a\ntrain,0,1\n,0,1\n", (2, "split"), "train, validation, audit"),
        ("x,a\n0,1\n", (None, None), "no label column"),
        ("label,a,a\n0,1,2\n", (None, "a"), "twice"),
        ("label\n0\n", (None, None), "no feature column"),
        ("label,a\n", (None, None), "no rows"),
        ("label,a\n\n\n", (None, None), "no rows"),
        ("", (None, None), "empty"),
        ("\n", (None, None), "no label column"),
    ],
)
def test_csv_faults_name_row_and_column(tmp_path, content, place, reason):
    error = fail(text(tmp_path, content), "csv")
    assert at(error) == place
    assert reason.lower() in str(error).lower()


def test_row_numbers_go_on_over_blocks(tmp_path):
    line = f"1,0.25{'0' * 500}\n"
    error = fail(text(tmp_path, "label,a\n" + line * 20_000 + "1,inf\n"))
    assert at(error) == (20_001, "a")


def test_labels_outside_the_given_classes_are_named(tmp_path):
    error = fail(text(tmp_path, "label,a\n0,1\n2,1\n"), classes=2)
    assert at(error) == (2, "label")
    assert "with 2 classes labels are 0..1" in str(error)


@pytest.mark.parametrize("part", ["record_id", "subject_id", "label", "split"])
def test_a_column_that_was_asked_for_must_exist(tmp_path, part):
    path = text(tmp_path, "label,a\n0,1\n")
    assert at(fail(path, columns=Columns(**{part: "nope"}))) == (None, "nope")


def test_a_feature_that_was_asked_for_must_exist(tmp_path):
    path = text(tmp_path, "label,a\n0,1\n")
    assert at(fail(path, columns=Columns(features=["a", "nope"]))) == (None, "nope")
    pq.write_table(pa.table({"label": [0], "a": [1]}), tmp_path / "x.parquet")
    error = fail(tmp_path / "x.parquet", columns=Columns(features=["nope"]))
    assert at(error) == (None, "nope")
    np.savez(tmp_path / "x.npz", x=np.ones((1, 2)), y=np.zeros(1))
    assert at(fail(tmp_path / "x.npz", columns=Columns(features=["z"]))) == (None, "z")


def test_csv_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"id,label,a\n\xff\xfe,0,1\n")
    assert "cannot be read" in str(fail(path)) or "UTF-8" in str(fail(path))


@pytest.mark.parametrize(
    ("table", "place", "reason"),
    [
        ({"label": [0, None], "a": [1, 2]}, (2, "label"), "missing"),
        ({"label": ["0", PLANTED], "a": [1, 2]}, (2, "label"), "not an integer"),
        ({"label": pa.array([1, 2**63], pa.uint64()), "a": [1, 2]}, (2, "label"), "integer"),
        ({"label": [0, 1], "a": [1, None]}, (2, "a"), "value is missing"),
        ({"label": [0, 1], "a": [1.0, np.inf]}, (2, "a"), "NaN, infinite"),
        ({"label": [0, 1], "a": [1, 2], "name": ["x", PLANTED]}, (None, "name"), "of numbers"),
        ({"label": [0, 1], "a": [1, 2], "id": [7, 7]}, (2, "id"), "same as in row 1"),
        ({"label": [0, 1], "a": [1, 2], "id": ["x", None]}, (2, "id"), "missing"),
        ({"label": [0, 1], "a": [1, 2], "id": [0.5, 1.5]}, (1, "id"), "neither text"),
        ({"label": [0, 1], "a": [1, 2], "split": ["train", "test"]}, (2, "split"), "audit"),
        ({"a": [1, 2]}, (None, None), "no label column"),
        ({"label": pa.array([], pa.int64()), "a": pa.array([], pa.int64())}, (None, None), "rows"),
        ({"label": [0, 1]}, (None, None), "no feature column"),
    ],
)
def test_parquet_faults_name_row_and_column(tmp_path, table, place, reason):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    error = fail(tmp_path / "x.parquet")
    assert at(error) == place
    assert reason.lower() in str(error).lower()


X, Y = np.ones((3, 2), np.float32), np.array([0, 1, 0])


@pytest.mark.parametrize(
    ("arrays", "place", "reason"),
    [
        ({"x": X, "y": Y[:2]}, (None, "y"), "one value for each of 3 rows"),
        ({"x": X, "y": Y - 1}, (1, "y"), "not an integer"),
        ({"x": X, "y": np.array([0, np.nan, 1])}, (2, "y"), "not an integer"),
        ({"x": np.array([[1, 2], [3, np.inf]]), "y": Y[:2]}, (2, "x[1]"), "NaN"),
        ({"x": X, "y": Y, "id": np.array(["a", "b", "a"])}, (3, "id"), "same as in row 1"),
        ({"x": X, "y": Y, "id": np.array(["a", "", "c"])}, (2, "id"), "missing"),
        ({"x": X, "y": Y, "split": np.array(["train", "x", "y"])}, (2, "split"), "audit"),
        ({"x": X}, (None, None), "no label column"),
        ({"y": Y}, (None, None), "no array of rows"),
        ({"x": np.array(["a", "b", "c"]), "y": Y}, (None, "x"), "expected numbers"),
        ({"x": np.ones(3), "y": Y}, (None, "x"), "expected numbers of shape"),
        ({"x": np.ones((3, 0)), "y": Y}, (None, "x"), "expected numbers of shape"),
        ({"x": np.ones((0, 2)), "y": Y[:0]}, (None, None), "no rows"),
        ({"x": np.asfortranarray(np.ones((3, 2))), "y": Y}, (None, "x"), "Fortran"),
        ({"x": X, "y": np.array([{}, 1, 2], object)}, (None, "y"), "pickle"),
        ({"x": X.astype(complex), "y": Y}, (None, "x"), "neither numbers nor text"),
    ],
)
def test_npz_faults_name_row_and_column(tmp_path, arrays, place, reason):
    np.savez(tmp_path / "x.npz", **arrays)
    error = fail(tmp_path / "x.npz")
    assert at(error) == place
    assert reason.lower() in str(error).lower()


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ("1,0,1\n2,1,2\n", (2, "attribute 2"), "neither 0 nor 1"),
        ("1,0,1\n0,1,1\n", (2, "label"), "numbered from 1"),
        ("1,0,1\n2,1\n", (2, None), "2 fields, expected 3"),
        ("1,0,1\n2,,1\n", (2, "attribute 1"), "missing"),
        (f"1,0,1\n2,{PLANTED},1\n", (2, "attribute 1"), "not a number"),
        ("1\n2\n", (1, None), "at least one attribute"),
    ],
)
def test_membership_table_faults_name_row_and_column(tmp_path, content, place, reason):
    error = fail(text(tmp_path, content), "labelled_binary_csv")
    assert at(error) == place
    assert reason.lower() in str(error).lower()


def test_cifar_faults(tmp_path):
    record = bytes([9]) + bytes(3072)
    (tmp_path / "data_batch_1.bin").write_bytes(record * 3 + bytes([10]) + bytes(3072))
    assert at(fail(tmp_path)) == (4, "label")
    (tmp_path / "data_batch_1.bin").write_bytes(record[:-1])
    assert "whole number of 3073-byte records" in str(fail(tmp_path))
    assert "whole number of 3074-byte" in str(
        fail(tmp_path / "data_batch_1.bin", "cifar100_binary")
    )
    fault = fail(tmp_path / "data_batch_1.bin", "cifar100_binary", columns=Columns(label="medium"))
    assert at(fault) == (None, "medium")
    (tmp_path / "empty").mkdir()
    assert "holds no" in str(fail(tmp_path / "empty", "cifar10_binary"))


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"X": np.zeros((4, 4, 3, 2), np.uint8), "y": np.array([[1], [0]])}, (2, "y")),
        ({"X": np.zeros((4, 4, 3, 2), np.uint8), "y": np.array([[1], [11]])}, (2, "y")),
        ({"X": np.zeros((4, 4, 3, 2), np.uint8), "y": np.array([[1]])}, (None, "y")),
        ({"X": np.zeros((4, 4, 3, 2), np.float32), "y": np.array([[1], [1]])}, (None, "X")),
        ({"X": np.zeros((4, 4, 3, 2), np.uint8)}, (None, "y")),
        ({"y": np.array([[1]])}, (None, "X")),
    ],
)
def test_svhn_faults(tmp_path, variables, place):
    scipy.io.savemat(tmp_path / "x.mat", variables)
    assert at(fail(tmp_path / "x.mat")) == place


class Exploit:
    def __reduce__(self):
        return os.mkdir, (os.environ["UNLEARN_TEST_EXPLOIT"],)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("x.pkl", None),
        ("x.pt", None),
        ("x.pth", None),
        ("x.npy", None),
        ("data_batch_1", None),
        ("x.csv", None),
        ("x.npz", "npz"),
        ("x.mat", "svhn_mat"),
        ("x.parquet", "parquet"),
    ],
)
def test_pickle_is_refused_under_any_name_and_never_runs(tmp_path, monkeypatch, name, format):
    monkeypatch.setenv("UNLEARN_TEST_EXPLOIT", str(tmp_path / "ran"))
    (tmp_path / name).write_bytes(pickle.dumps(Exploit()))
    error = fail(tmp_path / name, format)
    assert "np.savez" in str(error)
    assert not (tmp_path / "ran").exists()


def test_pickle_inside_npz_is_refused_and_never_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_TEST_EXPLOIT", str(tmp_path / "ran"))
    np.savez(tmp_path / "x.npz", x=X, y=np.array([Exploit(), 1, 2], object))
    assert "pickle" in str(fail(tmp_path / "x.npz"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.parquet", b"PAR1 is not enough", "cannot be read as parquet"),
        ("x.npz", b"PK\x03\x04 is not enough", "cannot be read as npz"),
        ("x.mat", b"MATLAB 5.0 is not enough", "cannot be read as svhn_mat"),
        ("x.unknown", b"what is this", "cannot be told"),
    ],
)
def test_unreadable_files_say_so(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert reason.lower() in str(fail(tmp_path / name)).lower()


def test_an_unknown_format_is_refused(tmp_path):
    assert "use one of csv, parquet" in str(fail(text(tmp_path, "label,a\n0,1\n"), "os.system"))


def test_matlab_73_files_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "x.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n")
    assert "-v7" in str(fail(path))
