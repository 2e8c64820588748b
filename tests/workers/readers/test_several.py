"""A folder of files is one source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workers import readers
from workers.readers import Columns, ReadError, Table

FIRST = "id,subject,label,a,b\nr1,s1,0,1,2\nr2,s1,1,3,4\n"
SECOND = "id,subject,label,a,b\nr3,s2,1,5.5,6\n"


def folder(home: Path, **files: str) -> Path:
    """A folder of these files; in names ``_`` stands for the dot."""
    made = home / "visits"
    made.mkdir()
    for name, content in files.items():
        (made / name.replace("_", ".")).write_text(content)
    return made


def test_files_are_read_in_the_order_of_their_names_in_one_dtype(tmp_path: Path) -> None:
    source = readers.open_source(folder(tmp_path, b_csv=SECOND, a_csv=FIRST, c_csv=FIRST[:21]))
    chunks = list(source.chunks)
    assert (source.format, source.path.name) == ("csv", "visits")
    assert {chunk.x.dtype for chunk in chunks} == {np.dtype(np.float32)}
    x = np.concatenate([chunk.x for chunk in chunks])
    assert x.tolist() == [[1, 2], [3, 4], [5.5, 6]]
    assert [one for chunk in chunks for one in chunk.record_ids or []] == ["r1", "r2", "r3"]


def test_files_of_small_whole_numbers_stay_bytes(tmp_path: Path) -> None:
    source = readers.open_source(
        folder(tmp_path, a_csv=FIRST, b_csv=SECOND.replace("5.5", "5"), _notes="hidden")
    )
    assert {chunk.x.dtype for chunk in source.chunks} == {np.dtype(np.uint8)}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (SECOND.replace("5.5", "x"), "Row 1, column 'a': in file 'b.csv': not a number"),
        (SECOND.replace("r3", "r1"), "row 1"),
        (SECOND.replace(",b", ",c"), "Column 'b': in file 'b.csv': the file has other columns"),
        ("id,subject,label,b,a\nr3,s2,1,5,6\n", "in another order"),
        ("", "In file 'b.csv': no label column"),
    ],
)
def test_file_that_does_not_fit_is_named(tmp_path: Path, second: str, said: str) -> None:
    path = folder(tmp_path, a_csv=FIRST, b_csv=second)
    with pytest.raises(ReadError) as refused:
        list(readers.open_source(path, "csv").chunks)
    assert said in str(refused.value)


def test_features_that_are_listed_may_come_in_any_order(tmp_path: Path) -> None:
    path = folder(tmp_path, a_csv=FIRST, b_csv="id,subject,label,b,a\nr3,s2,1,6,5\n")
    source = readers.open_source(path, columns=Columns(features=["a", "b"]))
    assert np.concatenate([chunk.x for chunk in source.chunks]).tolist()[-1] == [5, 6]


def test_folder_of_several_formats_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, a_csv=FIRST, b_jsonl='{"id": "r3"}')
    with pytest.raises(ReadError, match=r"several formats \(csv, json_lines\)"):
        readers.open_source(path)


def test_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    path = folder(tmp_path, a_csv=FIRST)
    (tmp_path / "outside.csv").write_text(SECOND)
    (path / "b.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(ReadError, match="symbolic link"):
        readers.open_source(path)


def test_truth_values_beside_numbers_in_another_file_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("m,label\ntrue,0\nFalse,1\n")
    (tmp_path / "b.csv").write_text("m,label\n1,0\n0,1\n")
    with pytest.raises(ReadError, match=r"Column 'm': true and false in some files"):
        readers.open_source(tmp_path, table=Table())
    declared = readers.open_source(tmp_path, table=Table(types={"m": "boolean"}))
    cells = np.concatenate(
        [np.ascontiguousarray(one.x).view(np.float64) for one in declared.chunks]
    )
    assert cells.ravel().tolist() == [1.0, 0.0, 1.0, 0.0]
