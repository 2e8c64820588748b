"""Numbers are kept as they are, or refused: different rows stay different."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers import readers
from workers.readers import ReadError


def write(path, column):
    ids, labels = [f"r{i}" for i in range(len(column))], [0] * len(column)
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows(
                [["id", "v", "label"], *zip(ids, column, labels, strict=True)]
            )
    elif path.suffix == ".npz":
        np.savez(path, x=np.array(column)[:, None], y=np.array(labels), id=np.array(ids))
    else:
        pq.write_table(pa.table({"id": ids, "v": column, "label": labels}), path)
    return path


def rows(path):
    return np.concatenate([chunk.x for chunk in readers.open_source(path).chunks])[:, 0]


LARGE = {
    "just above": [16_777_216, 16_777_217],
    "negative": [0, -16_777_217],
    "seconds since 1970": [1_700_000_000, 1_700_000_001],
    "nanoseconds": [1_700_000_000_000_000_000, 1_700_000_000_000_000_001],
    "whole floats": [0.0, 1_700_000_001.0],
    "fractions of seconds": [0.5, 1_700_000_000.25],
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@pytest.mark.parametrize("kind", LARGE)
def test_a_number_that_float32_would_change_is_refused_by_row_and_column(tmp_path, suffix, kind):
    path = write(tmp_path / f"x{suffix}", LARGE[kind])
    with pytest.raises(ReadError) as caught:
        rows(path)
    assert caught.value.row == (1 if kind == "nanoseconds" else 2)
    assert caught.value.column == ("x[0]" if suffix == ".npz" else "v")
    assert "could become equal" in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_large_numbers_that_float32_holds_are_kept_exactly(tmp_path, suffix):
    column = [16_777_216, -16_777_216, 1 << 30, 16_777_215, 3]
    assert rows(write(tmp_path / f"x{suffix}", column)).tolist() == column


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_fractions_are_rounded_as_float32_does(tmp_path, suffix):
    column = [0.1, 1 / 3, 123_456.789]
    found = rows(write(tmp_path / f"x{suffix}", column))
    np.testing.assert_array_equal(found, np.array(column, np.float32))


def test_float32_columns_keep_whatever_they_hold(tmp_path):
    column = np.array([1.2e20, -3e30, 16_777_220], np.float32)
    assert rows(write(tmp_path / "x.npz", column)).tolist() == column.tolist()
    pq.write_table(
        pa.table({"id": ["a", "b", "c"], "v": column, "label": [0, 1, 0]}), tmp_path / "x.parquet"
    )
    assert rows(tmp_path / "x.parquet").tolist() == column.tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_a_number_that_float64_has_rounded_already_is_refused(tmp_path, suffix):
    """9,007,199,254,740,993 is read as 2**53, which float32 holds."""
    column = [(1 << 53) + 1, 0.5]
    if suffix != ".csv":
        column = [float(value) for value in column]
    with pytest.raises(ReadError, match="could become equal"):
        rows(write(tmp_path / f"x{suffix}", column))


def test_unsigned_numbers_beyond_the_signed_range_are_refused(tmp_path):
    column = pa.array([1, 2**64 - 1], pa.uint64())
    pq.write_table(
        pa.table({"id": ["a", "b"], "v": column, "label": [0, 1]}), tmp_path / "x.parquet"
    )
    with pytest.raises(ReadError, match="Row 2, column 'v'"):
        rows(tmp_path / "x.parquet")
