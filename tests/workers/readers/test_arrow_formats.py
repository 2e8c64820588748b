"""Sources in Arrow's own format, in JSON Lines, and compressed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers import readers
from workers.readers import Chunk, Columns, ReadError

COLUMNS: dict[str, list[Any]] = {
    "id": [f"r{n}" for n in range(40)],
    "subject": [f"s{n % 7}" for n in range(40)],
    "label": [n % 3 for n in range(40)],
    "a": [n % 5 for n in range(40)],
    "b": [n / 8 for n in range(40)],
}


def read(path: Path, **options: Any) -> tuple[Chunk, readers.Source]:
    """The source and its only chunk."""
    source = readers.open_source(path, **options)
    (chunk,) = source.chunks
    return chunk, source


def lines(**columns: list[Any]) -> str:
    rows = zip(*columns.values(), strict=True)
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)


def write(path: Path, columns: dict[str, list[Any]] = COLUMNS) -> Path:
    """Write the columns in the format that the file's name says."""
    table = pa.table(columns)
    if path.suffix in (".arrow", ".feather"):
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=16)
    elif path.suffix == ".arrows":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=16)
    else:
        text = lines(**columns)
        if ".csv" in path.name:
            names = list(columns)
            rows = zip(*columns.values(), strict=True)
            text = "\n".join(",".join(map(str, row)) for row in [names, *rows]) + "\n"
        content = text.encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


NAMES = ("x.arrow", "x.feather", "x.arrows", "x.jsonl", "x.ndjson", "x.jsonl.gz", "x.csv.gz")


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_those_of_a_table(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    source = readers.open_source(path)
    chunks = list(source.chunks)
    x = np.concatenate([chunk.x for chunk in chunks])
    expected = np.array([COLUMNS["a"], COLUMNS["b"]], np.float32).T
    np.testing.assert_array_equal(x, expected)
    assert x.dtype == np.float32
    assert [one for chunk in chunks for one in chunk.record_ids or []] == COLUMNS["id"]
    assert [one for chunk in chunks for one in chunk.subject_ids or []] == COLUMNS["subject"]
    assert np.concatenate([chunk.labels for chunk in chunks]).tolist() == COLUMNS["label"]
    if source.exact:
        assert source.rows == 40


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_up_to_255_are_bytes(tmp_path: Path, name: str) -> None:
    columns = {**COLUMNS, "b": [255 - n for n in range(40)][::-1] * 1}
    columns["b"][3] = columns["b"][4]  # it does not number the rows
    source = readers.open_source(write(tmp_path / name, columns))
    assert {chunk.x.dtype for chunk in source.chunks} == {np.dtype(np.uint8)}


def test_json_numbers_may_have_fractions_after_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers.json_lines, "_BLOCK_BYTES", 200)
    columns = {**COLUMNS, "b": [1.0 if n < 39 else 1.5 for n in range(40)]}
    columns["b"][:39] = [1] * 39
    source = readers.open_source(write(tmp_path / "x.jsonl", columns))
    chunks = list(source.chunks)
    assert len(chunks) > 1
    assert np.concatenate([chunk.x[:, 1] for chunk in chunks]).tolist() == [1.0] * 39 + [1.5]


def test_json_lists_are_rows_and_whole_ids_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"id": 10 + n, "label": n % 2, "x": [n, n + 0.5, 2]} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _ = read(path, input={"name": "table"}, columns=Columns(features=["x"]))
    assert found.record_ids == [str(10 + n) for n in range(6)]
    np.testing.assert_array_equal(found.x, np.array([row["x"] for row in rows], np.float32))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "arrow"])
@pytest.mark.parametrize("fixed", [False, True])
def test_column_of_lists_is_a_table_of_features_without_saying_so(
    tmp_path: Path, suffix: str, fixed: bool
) -> None:
    vectors = [[n / 4, -n, 0.5] for n in range(40)]
    kind = pa.list_(pa.float32(), 3) if fixed else pa.list_(pa.float32())
    columns = {"id": COLUMNS["id"], "label": COLUMNS["label"], "embedding": vectors}
    path = tmp_path / f"x.{suffix}"
    if suffix == "jsonl":
        path.write_text(lines(**columns))
    else:
        table = pa.table({**columns, "embedding": pa.array(vectors, kind)})
        if suffix == "parquet":
            pq.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
    found, source = read(path)
    np.testing.assert_array_equal(found.x, np.array(vectors, np.float32))
    assert found.x.dtype == np.float32
    assert source.input["name"] == "table"


def test_text_that_looks_like_a_moment_is_an_id(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(lines(id=["2024-05-01", "2024-05-02"], label=[0, 1], a=[0.5, 1.5]))
    assert read(path)[0].record_ids == ["2024-05-01", "2024-05-02"]


def test_dictionaries_are_read_as_their_values(tmp_path: Path) -> None:
    table = pa.table({**COLUMNS, "subject": pa.array(COLUMNS["subject"]).dictionary_encode()})
    path = str(tmp_path / "x.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "x.arrow")[0].subject_ids == COLUMNS["subject"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b'{"id": "a", "label": 0, "v": 1}\n{"id": "b", "label": 1}\n', "missing"),
        ("x.jsonl", b'{"id": "a", "label": 0, "v": 1}\nsecret\n', "one JSON object a line"),
        ("x.jsonl", b"[1, 2]\n", "JSON"),
        ("x.jsonl", b'{"id": "a", "label": 0, "v": "x"}\n', "not a column of numbers"),
        (
            "x.csv.gz",
            gzip.compress(b"id,label,v\na,0,1\n" * 99, mtime=0)[:-9],
            "cannot be read as csv",
        ),
        ("x.csv.gz", b"id,label,v\na,0,1\n", "cannot be read as csv"),
        ("x.jsonl.gz", b"{}", "cannot be read as json_lines"),
        ("x.arrow", b"ARROW1\0\0nothing", "cannot be read as arrow"),
        ("x.arrows", b"\xff\xff\xff\xff\xff\xff\xff\x7f", "cannot be read as arrow"),
        ("x.arrow.gz", gzip.compress(b"ARROW1", mtime=0), "cannot be told"),
    ],
)
def test_damaged_source_is_refused_without_a_word_of_it(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError) as refused:
        list(readers.open_source(tmp_path / name).chunks)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["x.arrow", "x.arrows"])
def test_every_flipped_byte_of_an_arrow_file_is_read_or_refused(tmp_path: Path, name: str) -> None:
    content = write(tmp_path / name).read_bytes()
    broken = tmp_path / f"y{Path(name).suffix}"
    refused = 0
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        broken.write_bytes(damaged)
        try:
            for chunk in readers.open_source(broken).chunks:
                assert len(chunk.labels) == len(chunk.x)
        except ReadError:
            refused += 1
    assert refused
