"""One person has one id, and what only looks different is asked about."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from service.ledger.database.identifiers import Case
from workers import readers
from workers.readers import ReadError

NFC, NFD = "jos\u00e9", "jose\u0301"


def write(path, subjects=None, records=None):
    n = len(subjects or records)
    columns = {
        "record_id": records or [f"r{i}" for i in range(n)],
        "subject_id": subjects or ["somebody"] * n,
        "label": [i % 2 for i in range(n)],
        "v": [0.5 + i for i in range(n)],
    }
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([columns, *zip(*columns.values(), strict=True)])
    elif path.suffix == ".npz":
        np.savez(path, x=np.array(columns.pop("v"))[:, None], **columns)
    else:
        pq.write_table(pa.table(columns), path)
    return path


def read(path, **options):
    source = readers.open_source(path, **options)
    chunks = list(source.chunks)
    records = [one for chunk in chunks for one in chunk.record_ids]
    return records, [one for chunk in chunks for one in chunk.subject_ids], source.notes


def refusal(path, **options):
    with pytest.raises(ReadError) as caught:
        read(path, **options)
    return caught.value


SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])


@SUFFIXES
def test_a_person_whose_id_is_written_in_several_ways_is_one(tmp_path, suffix):
    subjects = [NFC, NFD, f"{NFC} ", f"\u00a0{NFD}", "p1", "p1\u3000"]
    records, found, notes = read(write(tmp_path / f"x{suffix}", subjects))
    assert found == [NFC] * 4 + ["p1"] * 2
    assert (notes.subject_ids_normalised, notes.record_ids_normalised) == (4, 0)
    assert records == [f"r{i}" for i in range(6)]


@SUFFIXES
@pytest.mark.parametrize("other", ["p1 ", "\tp1", "p1\u00a0"])
def test_records_whose_ids_differ_by_white_space_are_one_id_twice(tmp_path, suffix, other):
    error = refusal(write(tmp_path / f"x{suffix}", records=["p1", "p2", other]))
    assert (error.row, error.column) == (3, "record_id")
    assert "same as in row 1" in str(error)


CASES = [("ann@example.org", "Ann@Example.org"), (NFC, NFC.upper())]
FORMS = [
    ("p1", "\uff501"),
    ("x\u00b2", "x2"),
    ("a b", "a\u00a0b"),
    ("a b", "a  b"),
    ("p1", "p\u200b1"),
    ("ann-lee", "ann\u2011lee"),
    ("ann\u2013lee", "ann\u2212lee"),
    ("ann\u00adlee", "annlee"),
]


@SUFFIXES
@pytest.mark.parametrize("part", ["subject", "record"])
@pytest.mark.parametrize(("one", "other"), [*CASES, *FORMS])
def test_ids_that_only_look_alike_are_refused_by_both_rows(tmp_path, suffix, part, one, other):
    path = write(tmp_path / f"x{suffix}", **{f"{part}s": ["x", one, "y", other]})
    error = refusal(path)
    assert (error.row, error.column) == (4, f"{part}_id")
    for word in ("row 2", "id_case: distinct", "id_case: ignored"):
        assert word in str(error)
    assert one not in str(error)
    assert other not in str(error)


@SUFFIXES
@pytest.mark.parametrize("part", ["subject", "record"])
@pytest.mark.parametrize(("one", "other"), CASES)
def test_ids_that_differ_by_case_are_distinct_where_the_source_says_so(
    tmp_path, suffix, part, one, other
):
    path = write(tmp_path / f"x{suffix}", **{f"{part}s": ["x", one, "y", other]})
    assert read(path, id_case=Case.DISTINCT)[part == "subject"] == ["x", one, "y", other]


@SUFFIXES
@pytest.mark.parametrize("case", Case)
@pytest.mark.parametrize("part", ["subject", "record"])
@pytest.mark.parametrize(("one", "other"), FORMS)
def test_two_ids_do_not_silently_become_one_whatever_case_means(
    tmp_path, suffix, part, one, other, case
):
    path = write(tmp_path / f"x{suffix}", **{f"{part}s": ["x", one, "y", other, one + "z"]})
    error = refusal(path, id_case=case)
    assert (error.row, error.column) == (4, f"{part}_id")
    assert "row 2" in str(error)
    assert "rename" in str(error)
    assert other not in str(error)


@SUFFIXES
def test_an_id_is_kept_without_what_nobody_sees_and_counted(tmp_path, suffix):
    subjects = ["ann\u2011lee", "ann\u2011lee", "\ufeffben", "c\u00add", "eve"]
    _, found, notes = read(write(tmp_path / f"x{suffix}", subjects))
    assert found == ["ann-lee", "ann-lee", "ben", "cd", "eve"]
    assert notes.subject_ids_normalised == 4


def test_ids_that_look_alike_are_found_across_blocks(tmp_path):
    subjects = [f"person {i}" for i in range(40_000)]
    subjects[39_000] = "Person 7"
    error = refusal(write(tmp_path / "x.parquet", subjects))
    assert error.row == 39_001
    assert "row 8 " in str(error)


@SUFFIXES
def test_where_case_is_ignored_a_person_is_one_in_every_case(tmp_path, suffix):
    path = write(tmp_path / f"x{suffix}", ["Ann@X.org", "ann@x.org", "STRASSE", "stra\u00dfe"])
    _, found, notes = read(path, id_case=Case.IGNORED)
    assert found == ["ann@x.org"] * 2 + ["strasse"] * 2
    assert notes.subject_ids_normalised == 3
    path = write(tmp_path / f"y{suffix}", records=["A", "b", "a"])
    assert "same as in row 1" in str(refusal(path, id_case=Case.IGNORED))


FLOATS = ["1.0", "12.00", "1.23457E+12", "1e+20", "-3.0", "1,23457E+12", "2.5e3"]


@SUFFIXES
@pytest.mark.parametrize("part", ["subject", "record"])
@pytest.mark.parametrize("value", FLOATS)
def test_ids_that_became_floats_are_refused_by_row(tmp_path, suffix, part, value):
    error = refusal(write(tmp_path / f"x{suffix}", **{f"{part}s": ["x", value]}))
    assert (error.row, error.column) == (2, f"{part}_id")
    assert "whole numbers" in str(error)


@SUFFIXES
def test_numbers_text_and_codes_are_ids(tmp_path, suffix):
    ids = ["1", "007", "-5", "12E5", "1.2", "1.0.3", "v1.0", "E+1", "1e", "Nan", "Null Island"]
    assert read(write(tmp_path / f"x{suffix}", ids))[1] == ids


@SUFFIXES
@pytest.mark.parametrize("part", ["subject", "record"])
@pytest.mark.parametrize(
    "value",
    [
        "NA",
        "N/A",
        "NULL",
        "null",
        "nan",
        "NaN",
        "None",
        "<NA>",
        " NA ",
        "\uff2e\uff21",
        " ",
        "\u00a0",
        "\u200b\u3000",
        "\\N",
        "#REF!",
        "n.a.",
    ],
)
def test_ids_that_say_they_are_missing_are_refused_by_row(tmp_path, suffix, part, value):
    error = refusal(write(tmp_path / f"x{suffix}", **{f"{part}s": ["x", value]}))
    assert (error.row, error.column) == (2, f"{part}_id")
    assert "identifier is missing" in str(error)


def test_floats_of_a_parquet_column_are_no_ids(tmp_path):
    table = {"id": [1.0, 2.0], "v": [0.5, 1.5], "label": [0, 1]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    assert refusal(tmp_path / "x.parquet").row == 1


@pytest.mark.parametrize(("part", "longest"), [("record", 255), ("subject", 1000)])
def test_an_id_that_no_request_could_name_is_refused(tmp_path, part, longest):
    kept = "x" * longest
    assert kept in read(write(tmp_path / "x.csv", **{f"{part}s": [kept, "y"]}))[part == "subject"]
    error = refusal(write(tmp_path / "x.csv", **{f"{part}s": ["y", kept + "x"]}))
    assert (error.row, error.column) == (2, f"{part}_id")


def test_directories_of_one_person_in_two_forms_are_one_subject(tmp_path):
    for name in (NFC, NFD):
        (tmp_path / "faces" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "faces" / name / f"{len(name)}.png")
    _, subjects, _ = read(tmp_path / "faces")
    assert subjects == [NFC, NFC]
    (tmp_path / "faces" / NFC.upper()).mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "faces" / NFC.upper() / "1.png")
    assert "id_case" in str(refusal(tmp_path / "faces"))
