"""Typed tables: what types columns have, what their values are stored as, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearning.inputs import typed_table
from workers import readers
from workers.readers import Columns, ReadError, Source, Table

#: A blank after each comma, words, ``?`` for what is missing.
CENSUS = """\
age, job, member, pay, income
39, cook, yes, 1.5, <=50K
50, ?, No, -2, >50K
 38 ,  nurse, yes, 0, <=50K
"""
MISSING = Table(missing=["?"])
INCOME = Columns(label="income")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(path: Path, table: Table = MISSING, columns: Columns = INCOME) -> tuple[Any, Source]:
    """The cells (n, columns) as text, number or None, and the source."""
    source = readers.open_source(path, columns=columns, table=table)
    rows = [chunk.x for chunk in source.chunks]
    assert all(one.dtype == np.int32 for one in rows)
    return shown(np.concatenate(rows), source), source


def shown(x: np.ndarray, source: Source) -> list[list[Any]]:
    cells = np.ascontiguousarray(x).view(np.int64)[:, :, 0]
    types = [one for one in source.columns if one.type is not None]
    words = {
        one.name: {typed_table.code_of(word): word for word in source.tally.words(one.name)}
        for one in types
    }
    numbers = cells.view(np.float64)
    return [
        [
            (words[one.name].get(int(cells[row, place])) if one.type == "category" else value(n))
            for place, (one, n) in enumerate(zip(types, numbers[row], strict=True))
        ]
        for row in range(len(cells))
    ]


def value(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def test_types_are_recognised_and_white_space_is_left_out(tmp_path: Path) -> None:
    cells, source = read(write(tmp_path / "census.csv", CENSUS))
    assert cells == [
        [39.0, "cook", 1.0, 1.5],
        [50.0, None, 0.0, -2.0],
        [38.0, "nurse", 1.0, 0.0],
    ]
    types = {one.name: one.type for one in source.columns}
    assert types == {
        "age": "whole",
        "job": "category",
        "member": "boolean",
        "pay": "number",
        "income": None,
    }
    assert source.class_names == ["<=50K", ">50K"]
    assert source.tally.columns == {
        "age": {"missing": 0, "trimmed": 1},
        "job": {"missing": 1, "trimmed": 3},
        "member": {"missing": 0, "trimmed": 3},
        "pay": {"missing": 0, "trimmed": 3},
    }
    assert not any(one.stated for one in source.columns)


def test_types_that_are_declared_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "zip,vip,n,label\n8001,1,3,a\n8002,0,4,b\n")
    table = Table(types={"zip": "category", "vip": "boolean"})
    cells, source = read(path, table, Columns())
    assert cells == [["8001", 1.0, 3.0], ["8002", 0.0, 4.0]]
    assert [one.stated for one in source.columns] == [True, True, False, False]


@pytest.mark.parametrize("first", [0, 40_000])
def test_spellings_of_true_and_false_in_one_column_are_one_value(
    tmp_path: Path, first: int
) -> None:
    """Also where the first batches of the file hold only digits."""
    words = ["true", "False", "1", "0", "TRUE", "no"]
    rows = [f"{n % 2},{n % 3},a" for n in range(first)]
    rows += [f"{word},{n % 3},b" for n, word in enumerate(words)]
    cells, source = read(
        write(tmp_path / "x.csv", "\n".join(["m,n,label", *rows, ""])), Table(), Columns()
    )
    assert [one.type for one in source.columns[:2]] == ["boolean", "whole"]
    assert [row[0] for row in cells[first:]] == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert [row[0] for row in cells[:first]] == [float(n % 2) for n in range(first)]


@pytest.mark.parametrize(
    ("column", "type"),
    [
        (["1", "0", "1"], "whole"),
        (["1", "true", "2"], "category"),
        (["1", "0.5", "true"], "category"),
        (["yes", "0", "FALSE"], "boolean"),
        (["yes", "0", "maybe"], "category"),
    ],
)
def test_digits_are_truth_values_only_beside_words_for_them(
    tmp_path: Path, column: list[str], type: str
) -> None:
    rows = [f"{word},{n % 2}" for n, word in enumerate(column)]
    _, source = read(
        write(tmp_path / "x.csv", "\n".join(["m,label", *rows, ""])), Table(), Columns()
    )
    assert source.columns[0].type == type


#: The same rows in every format.
COLUMNS: dict[str, list[Any]] = {
    "age": [39, 50, None, 41],
    "job": ["cook", None, "nurse", "cook"],
    "member": [True, False, True, None],
    "pay": [1.5, -2.0, None, 0.0],
    "label": ["no", "yes", "no", "no"],
}


def test_rows_have_the_same_cells_in_every_format(tmp_path: Path) -> None:
    table = pa.table(COLUMNS)
    pq.write_table(table, tmp_path / "x.parquet")
    words = table.set_column(1, "job", table["job"].combine_chunks().dictionary_encode())
    pq.write_table(words, tmp_path / "dictionary.parquet")
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    rows = table.to_pylist()
    write(tmp_path / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    write(tmp_path / "x.csv", "\n".join([",".join(COLUMNS), *lines]) + "\n")
    found = {}
    for name in ("x.parquet", "dictionary.parquet", "x.arrow", "x.jsonl", "x.csv"):
        source = readers.open_source(tmp_path / name, table=Table(missing=[""]))
        (chunk,) = source.chunks
        found[name] = chunk.x.tobytes()
        assert [one.type for one in source.columns[:4]] == [
            *("whole", "category", "boolean", "number")
        ]
        assert chunk.labels.tolist() == [0, 1, 0, 0]
    assert len(set(found.values())) == 1


def test_number_that_means_missing_is_missing_in_every_format(tmp_path: Path) -> None:
    table = Table(missing=["-999"])
    pq.write_table(pa.table({"n": [-999, 3], "label": [0, 1]}), tmp_path / "x.parquet")
    write(tmp_path / "x.csv", "n,label\n-999,0\n3,1\n")
    for name in ("x.parquet", "x.csv"):
        cells, source = read(tmp_path / name, table, Columns())
        assert cells == [[None], [3.0]]
        assert source.columns[0].type == "whole"


def test_whole_numbers_are_kept_exactly(tmp_path: Path) -> None:
    large = 2**53 - 1
    path = write(tmp_path / "x.csv", f"n,label\n{large},0\n{-large},1\n{2**24 + 1},1\n")
    cells, _ = read(path, Table(), Columns())
    assert [int(one[0]) for one in cells] == [large, -large, 2**24 + 1]


def test_number_has_the_same_cell_in_a_column_of_whole_and_of_other_numbers(
    tmp_path: Path,
) -> None:
    whole = readers.open_source(write(tmp_path / "a.csv", "n,label\n3,0\n-0,1\n"), table=Table())
    other = readers.open_source(
        write(tmp_path / "b.csv", "n,label\n3.0,0\n0,1\n.5,1\n"), table=Table()
    )
    (one,), (two,) = whole.chunks, other.chunks
    assert (whole.columns[0].type, other.columns[0].type) == ("whole", "number")
    assert one.x.tobytes() == two.x[:2].tobytes()


HEADER = "n,job,vip,label\n"
FINE = "1,cook,true,0\n"


@pytest.mark.parametrize(
    ("line", "table", "said"),
    [
        ("x,cook,true,0\n", {"n": "number"}, "Row 2, column 'n': not a number"),
        ("1.5,cook,true,0\n", {"n": "whole"}, "Row 2, column 'n': expected a whole number"),
        ("nan,cook,true,0\n", {}, "Row 2, column 'n': the number is not finite"),
        (f"{2**53},cook,true,0\n", {}, "Row 2, column 'n': the number has more digits"),
        ("1,cook,perhaps,0\n", {"vip": "boolean"}, "Row 2, column 'vip': expected true or false"),
        (",cook,true,0\n", {}, "Row 2, column 'n': the value is missing"),
        ("1,,true,0\n", {}, "Row 2, column 'job': the value is missing"),
        (f"1,{'x' * 256},true,0\n", {}, "Column 'job': a word of more than 255 characters"),
        ("1,cook,true\n", {}, "Row 2: the row has 3 fields, expected 4"),
        (FINE, {"colour": "category"}, "Column 'colour': the column has a declared type"),
        (FINE, {"label": "category"}, "Column 'label': the column has a declared type"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place_and_not_quoted(
    tmp_path: Path, line: str, table: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "x.csv", HEADER + FINE + line)
    with pytest.raises(ReadError) as refused:
        list(readers.open_source(path, table=Table(types=table)).chunks)
    assert str(refused.value).startswith(said)
    assert "perhaps" not in str(refused.value)


def test_column_of_too_many_words_is_refused(tmp_path: Path) -> None:
    lines = "".join(f"w{n % 1001},{n % 2}\n" for n in range(1100))
    path = write(tmp_path / "x.csv", "word,label\n" + lines)
    with pytest.raises(ReadError, match="Column 'word': more than 1,000 different words"):
        list(readers.open_source(path, table=Table()).chunks)
    fewer = write(tmp_path / "y.csv", path.read_text().replace("w1000,", "w0,"))
    (chunk,) = readers.open_source(fewer, table=Table()).chunks
    assert len(chunk) == 1100


@pytest.mark.parametrize("name", ["n{}", "{}"])
def test_column_that_names_every_row_is_refused_unless_its_type_is_declared(
    tmp_path: Path, name: str
) -> None:
    lines = "".join(f"{name.format(n)},{n % 2}\n" for n in range(40))
    path = write(tmp_path / "x.csv", "who,label\n" + lines)
    with pytest.raises(ReadError, match="Column 'who': the column numbers the rows"):
        list(readers.open_source(path, table=Table()).chunks)
    (chunk,) = readers.open_source(path, table=Table(types={"who": "category"})).chunks
    assert len(chunk) == 40


def test_column_without_any_value_is_refused_unless_its_type_is_declared(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a,b,label\n?,1,0\n?,1,1\n")
    with pytest.raises(ReadError, match="Column 'a': the column has no value in any row"):
        readers.open_source(path, table=MISSING)
    cells, _ = read(path, Table(types={"a": "number"}, missing=["?"]), Columns())
    assert [row[0] for row in cells] == [None, None]


def test_source_without_rows_is_refused_as_such(tmp_path: Path) -> None:
    source = readers.open_source(write(tmp_path / "x.csv", "a,label\n"), table=Table())
    with pytest.raises(ReadError, match="no rows"):
        list(source.chunks)


def test_files_of_a_folder_have_one_type_for_each_column(tmp_path: Path) -> None:
    folder = tmp_path / "years"
    folder.mkdir()
    write(folder / "a.csv", "n,x,c,label\n1,1,7,no\n2,2,8,no\n")
    write(folder / "b.csv", "n,x,c,label\n3,.5,b,yes\n4,2,9,no\n")
    cells, source = read(folder, Table(), Columns())
    assert [one.type for one in source.columns] == ["whole", "number", "category", None]
    assert not any(one.stated for one in source.columns)
    assert source.class_names == ["no", "yes"]
    assert cells == [[1, 1, "7"], [2, 2, "8"], [3, 0.5, "b"], [4, 2, "9"]]


def test_table_goes_with_no_other_kind_of_input_and_with_tables_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", HEADER + FINE)
    with pytest.raises(ReadError, match="has its own kind of input"):
        readers.open_source(path, table=Table(), input={"name": "table"})
    encoding = {"columns": [{"name": "n", "type": "number"}]}
    with pytest.raises(ReadError, match="learned from the rows"):
        readers.open_source(path, input={"name": "typed_table", "options": encoding})
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2)), y=np.array([0, 1, 0, 1]))
    with pytest.raises(ReadError, match="not read from npz"):
        readers.open_source(tmp_path / "x.npz", table=Table())
