"""Labels as words, in every format of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers import readers
from workers.readers import ReadError

WORDS = ["dog", "cat", "dog", "bird "]


def write(path: Path, labels: list[Any]) -> Path:
    columns = {"a": [0.5, 1.5, 2.5, 3.5][: len(labels)], "label": labels}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".npz":
        np.savez(path, x=np.array(columns["a"])[:, None], y=np.array(labels))
    else:
        lines = [f"{row['a']},{row['label']}" for row in rows]
        path.write_text("\n".join(["a,label", *lines]) + "\n")
    return path


def labels(path: Path, **options: Any) -> tuple[list[int], Any]:
    source = readers.open_source(path, **options)
    return [one for chunk in source.chunks for one in chunk.labels.tolist()], source.class_names


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.jsonl", "x.npz"])
def test_words_are_numbered_in_the_order_of_their_code_points(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, WORDS)
    assert labels(path) == ([2, 1, 2, 0], ["bird", "cat", "dog"])
    assert labels(path, classes=3)[0] == [2, 1, 2, 0]
    with pytest.raises(ReadError, match="3 different words, and 4 classes are stated"):
        readers.open_source(path, classes=4)


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.jsonl", "x.npz"])
def test_words_that_are_known_keep_their_numbers(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, WORDS)
    known = ["dog", "bird", "cat", "fish"]
    assert labels(path, class_names=known) == ([0, 2, 0, 1], known)
    with pytest.raises(ReadError, match=r"Row 4, column .(label|y).: the label is missing, or is"):
        labels(path, class_names=["cat", "dog"])


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.jsonl", "x.npz"])
def test_numbers_stay_numbers_whatever_words_are_known(tmp_path: Path, name: str) -> None:
    assert labels(write(tmp_path / name, ["1", "0", "1", "2"])) == ([1, 0, 1, 2], None)
    assert labels(tmp_path / name, class_names=["1", "0", "2"]) == ([1, 0, 1, 2], None)


def test_words_among_numbers_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ["1", "cat", "1", "2"])
    with pytest.raises(ReadError, match="Row 2, column 'label': the label is missing or is not"):
        labels(path)
    with pytest.raises(ReadError, match="numbers in some rows and words in others"):
        labels(write(tmp_path / "x.csv", ["cat", "1", "1", "2"]))


def test_missing_word_is_refused_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="Row 3, column 'label': the label is missing"):
        labels(write(tmp_path / "x.csv", ["cat", "dog", " ", "cat"]))
    path = write(tmp_path / "x.csv", ["cat", "?", "cat", "dog"])
    with pytest.raises(ReadError, match="Row 2, column 'label': the label is missing"):
        labels(path, table=readers.Table(missing=["?"]))


def test_too_many_words_are_no_classes(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,label\n" + "".join(f"1,w{n}\n" for n in range(10_001)))
    with pytest.raises(ReadError, match="Column 'label': the labels are more than 10,000"):
        readers.open_source(path)


def test_files_of_a_folder_share_their_classes(tmp_path: Path) -> None:
    folder = tmp_path / "years"
    folder.mkdir()
    write(folder / "a.csv", ["cat", "dog"])
    write(folder / "b.csv", ["fish", "cat"])
    assert labels(folder) == ([0, 1, 2, 0], ["cat", "dog", "fish"])
    write(folder / "c.csv", ["1", "0"])
    with pytest.raises(ReadError, match="words in one of the files and numbers in another"):
        readers.open_source(folder)
