"""Sources of texts: a column of each format becomes token ids, and the texts go no further."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import texts
from tests.workers.reader_files import read, write_csv
from unlearning import inputs
from workers.readers import Columns, ReadError, Table

TOKENIZER = texts.tokenizer()
TEXT = {
    "name": "text",
    "options": {"tokenizer": hashlib.sha256(TOKENIZER).hexdigest(), "max_length": 6},
}
GIVEN = {"input": TEXT, "files": {"tokenizer": TOKENIZER}}
HEADER = ["id", "text", "label", "note"]
ROWS = [["r1", "a1 w1", 0, "x"], ["r2", "b1, b2", 1, "y"], ["r3", "c1 c2 c3 c4 c5 c6", 2, "z"]]


def expected() -> np.ndarray:
    kind = inputs.kind("text", TEXT["options"])
    made = kind.input.text_reader(kind.options, GIVEN["files"])
    assert made is not None
    return made.encode([row[1] for row in ROWS]).x


def write(folder: Path, format: str) -> Path:
    table = {name: [row[place] for row in ROWS] for place, name in enumerate(HEADER)}
    if format == "csv":
        return write_csv(folder / "a.csv", HEADER, ROWS)
    if format == "parquet":
        pq.write_table(pa.table(table), folder / "a.parquet")
        return folder / "a.parquet"
    if format == "arrow":
        with pa.ipc.new_file(folder / "a.arrow", pa.table(table).schema) as writer:
            writer.write_table(pa.table(table))
        return folder / "a.arrow"
    lines = [json.dumps(dict(zip(HEADER, row, strict=True))) for row in ROWS]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return folder / "a.jsonl"


@pytest.mark.parametrize("format", ["csv", "parquet", "arrow", "json_lines"])
def test_the_column_of_texts_becomes_token_ids(tmp_path: Path, format: str) -> None:
    found, source = read(write(tmp_path, format), **GIVEN)
    assert source.format == format
    assert np.array_equal(found.x, expected())
    assert (found.record_ids, found.labels.tolist()) == (["r1", "r2", "r3"], [0, 1, 2])
    parts = {one.name: (one.part.value, one.recognised.value) for one in source.columns}
    assert parts["text"] == ("feature", "by name")
    assert parts["note"] == ("ignored", "remaining column")
    notes = source.notes
    assert (notes.texts_truncated, notes.tokens, notes.tokens_unknown) == (1, 2 + 3 + 4, 1)
    assert source.input["options"]["vocabulary"] == texts.VOCABULARY
    assert source.input["parameters"] == {"vocabulary": texts.VOCABULARY, "length": 6}


@pytest.mark.parametrize("format", ["csv", "parquet", "arrow", "json_lines"])
def test_labels_of_texts_may_be_words(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["lost card", "top up", "lost card"]
    rows = [[*row[:2], word, row[3]] for row, word in zip(ROWS, words, strict=True)]
    monkeypatch.setattr(f"{__name__}.ROWS", rows)
    found, source = read(write(tmp_path, format), **GIVEN)
    assert np.array_equal(found.x, expected())
    assert found.labels.tolist() == [0, 1, 0]
    assert (source.classes, source.class_names) == (2, ["lost card", "top up"])
    assert source.label_words


def test_words_of_labels_are_those_of_all_files_of_texts(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    for number, word in enumerate(("lost card", "top up")):
        write_csv(folder / f"{number}.csv", ["text", "label"], [["a1", word]])
    found, source = read(folder, **GIVEN)
    assert (found.labels.tolist(), source.class_names) == ([0, 1], ["lost card", "top up"])


def test_a_declared_column_is_the_one_of_the_texts(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ["id", "text", "said", "label"], [["1", "", "a1", 0]])
    found, _ = read(path, columns=Columns(text="said"), **GIVEN)
    assert found.x[0, 1] != 0


@pytest.mark.parametrize(
    ("header", "rows", "options", "words"),
    [
        (["label", "said"], [[0, "a1"]], {}, "No column of texts"),
        (["label", "text", "message"], [[0, "a1", "a2"]], {}, "may both hold the texts"),
        (["label", "text"], [[0, "a1"]], {"columns": Columns(text="none")}, "no such column"),
        (["label", "text"], [[0, "a1"]], {"columns": Columns(text="label")}, "No label column"),
        (["label", "text"], [[0, "a1"], [1, ""]], {}, "Row 2, column 'text': the tokenizer finds"),
        (["label", "text"], [[0, "a1"], [1, "ж ж"]], {}, "2 of 3 tokens are unknown"),
        (["label", "text"], [[0, "a1"]], {"input": None, "columns": Columns(text="text")}, "input"),
        (["label", "text"], [[0, "a1"]], {"files": {"tokenizer": b"{}"}}, "cannot be read"),
        (["label", "text"], [[0, "a1"]], {"table": Table()}, "typed table holds no texts"),
        (
            ["label", "text", "x"],
            [[0, "a1", 1]],
            {"input": None, "table": Table(), "columns": Columns(text="text")},
            "typed table holds no texts",
        ),
    ],
    ids=[
        "none",
        "two",
        "missing",
        "label",
        "empty",
        "unknown",
        "without_input",
        "damaged",
        "typed",
        "column_of_typed",
    ],
)
def test_what_does_not_fit_is_one_error_that_quotes_nothing(
    tmp_path: Path, header: list[str], rows: list[list[Any]], options: dict[str, Any], words: str
) -> None:
    path = write_csv(tmp_path / "a.csv", header, rows)
    with pytest.raises(ReadError, match=words) as error:
        read(path, **{**GIVEN, **options})
    assert "a1" not in str(error.value)


def test_a_missing_text_is_refused_by_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a1", None], "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(ReadError, match="Row 2, column 'text': the text is missing"):
        read(tmp_path / "a.parquet", **GIVEN)


def test_a_format_without_texts_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 6), np.int32), y=np.arange(2))
    with pytest.raises(ReadError, match="npz has no column of texts"):
        read(tmp_path / "a.npz", **GIVEN)


def test_a_folder_of_files_is_read_with_one_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    for number in range(2):
        rows = [[f"{number}-{one}", text, label] for one, text, label, _ in ROWS]
        write_csv(folder / f"{number}.csv", HEADER[:3], rows)
    found, source = read(folder, **GIVEN)
    assert np.array_equal(found.x, np.concatenate([expected()] * 2))
    assert source.notes.texts_truncated == 2
