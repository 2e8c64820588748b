"""Which column plays which part, and when the client has to say it."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers import readers
from workers.readers import Columns, ReadError, parts
from workers.readers.contract import Part, Recognised


def table(path, columns):
    """A table of named columns as CSV, Parquet or NPZ, by the file's name."""
    names = list(columns)
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([names, *zip(*columns.values(), strict=True)])
    else:
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


def read(path, **options):
    """The parts by column, and the record and subject ids."""
    source = readers.open_source(path, **options)
    chunks = list(source.chunks)

    def joined(part):
        found = [getattr(chunk, part) for chunk in chunks]
        return None if found[0] is None else [one for piece in found for one in piece]

    played = {column.name: column.part for column in source.columns}
    return played, joined("record_ids"), joined("subject_ids")


def numbered(n=200, **columns):
    rng = np.random.default_rng(0)
    rest = {f"f{i}": rng.normal(size=n).round(3).tolist() for i in range(3)}
    return {**columns, **rest, "label": [i % 2 for i in range(n)]}


RECORD_NAMES = [
    "id",
    "Id",
    "ID",
    "_id",
    "record_id",
    "RecordID",
    "recordid",
    "Sample-ID",
    "row.id",
    "uuid",
    "ids",
    "sampleId",
]
SUBJECT_NAMES = [
    "subject",
    "Subject_ID",
    "PatientID",
    "patientid",
    "user_id",
    "userId",
    "customer_id",
    "CUSTOMER-ID",
    "person",
    "Person.Id",
    "src_user_id",
    "subject_ids",
    "account-uuid",
]
OTHER_NAMES = [
    "grid",
    "valid",
    "void",
    "age",
    "user_count",
    "device_id",
    "idle",
    "paid",
    "personal",
    "identity_score",
]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", RECORD_NAMES)
def test_record_ids_are_recognised_by_their_usual_names(tmp_path, suffix, name):
    path = table(tmp_path / f"x{suffix}", numbered(**{name: range(1, 201)}))
    played, record_ids, subject_ids = read(path)
    assert played[name] == Part.RECORD_ID
    assert record_ids == [str(i) for i in range(1, 201)]
    assert subject_ids is None


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", SUBJECT_NAMES)
def test_subject_ids_are_recognised_even_where_each_row_has_its_own(tmp_path, suffix, name):
    path = table(tmp_path / f"x{suffix}", numbered(**{name: range(1, 201)}))
    played, record_ids, subject_ids = read(path)
    assert played[name] == Part.SUBJECT_ID
    assert subject_ids == [str(i) for i in range(1, 201)]
    assert record_ids is None


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_names_are_features(tmp_path, name):
    path = table(tmp_path / "x.csv", numbered(**{name: [i // 2 for i in range(200)]}))
    played, record_ids, subject_ids = read(path)
    assert played[name] == Part.FEATURE
    assert (record_ids, subject_ids) == (None, None)


@pytest.mark.parametrize(
    ("label", "split"), [("Label", "Split"), ("Y", "data_split"), ("TARGET", "splits")]
)
def test_labels_and_splits_are_recognised_without_regard_to_case(tmp_path, label, split):
    names = ["train", "validation", "audit"]
    columns = {"a": [0.5] * 6, label: [0, 1] * 3, split: names * 2}
    played, _, _ = read(table(tmp_path / "x.csv", columns))
    assert played == {"a": Part.FEATURE, label: Part.LABEL, split: Part.SPLIT}


@pytest.mark.parametrize(
    ("one", "other", "part"),
    [
        ("id", "record_id", "record_id"),
        ("Id", "uuid", "record_id"),
        ("user_id", "PatientID", "subject_id"),
        ("label", "y", "label"),
        ("split", "data_split", "split"),
    ],
)
def test_two_columns_for_one_part_are_refused_until_one_is_declared(tmp_path, one, other, part):
    train = ["train"] * 200
    values = {"split": train, "data_split": train}
    columns = numbered() | {
        name: values.get(name, [i % 2 for i in range(200)]) for name in (one, other)
    }
    if part == "record_id":
        columns |= {one: range(200), other: range(200)}
    path = table(tmp_path / "x.csv", columns)
    with pytest.raises(ReadError) as caught:
        read(path)
    for word in (repr(one), repr(other), f"columns.{part}"):
        assert word in str(caught.value)
    played, _, _ = read(path, columns=Columns(**{part: other}, ignored=[one]))
    assert (played[other], played[one]) == (Part(part), Part.IGNORED)


NUMBERINGS = [
    list(range(200)),
    [1000 - i for i in range(200)],
    np.random.default_rng(1).permutation(5000)[:200].tolist(),
    [float(i) for i in range(200)],
]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("values", NUMBERINGS, ids=["from 0", "down", "scattered", "floats"])
def test_a_column_that_numbers_the_rows_is_refused_until_its_part_is_said(tmp_path, suffix, values):
    path = table(tmp_path / f"x{suffix}", numbered(nr=values))
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.column == "nr"
    assert "columns.record_id" in str(caught.value)
    assert "columns.features" in str(caught.value)
    for columns, part in (
        (Columns(features=["nr", "f0"]), Part.FEATURE),
        (Columns(ignored=["nr"]), Part.IGNORED),
    ):
        assert read(path, columns=columns)[0]["nr"] == part
    if isinstance(values[0], int):
        played, record_ids, _ = read(path, columns=Columns(record_id="nr"))
        assert played["nr"] == Part.RECORD_ID
        assert record_ids == [str(value) for value in values]


def test_a_numbering_longer_than_a_block_is_refused_and_one_that_repeats_is_not(tmp_path):
    n = 40_000
    distinct = table(tmp_path / "a.parquet", numbered(n, nr=range(n)))
    with pytest.raises(ReadError, match="numbers the rows"):
        read(distinct)
    again = table(tmp_path / "b.parquet", numbered(n, nr=[*range(n - 1), 0]))
    assert read(again)[0]["nr"] == Part.FEATURE


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("ids", [{}, {"columns": Columns(record_id="id")}])
def test_distinct_numbers_beside_the_record_ids_are_asked_about_too(tmp_path, suffix, ids):
    """They may be the people, or the ids that requests will name."""
    names = [f"r{i}" for i in range(200)]
    path = table(tmp_path / f"x{suffix}", numbered(id=names, nr=range(1, 201)))
    with pytest.raises(ReadError) as caught:
        read(path, **ids)
    assert caught.value.column == "nr"
    for way in ("columns.subject_id", "columns.features", "columns.ignored"):
        assert way in str(caught.value)
    assert read(path, columns=Columns(subject_id="nr"))[0]["nr"] == Part.SUBJECT_ID
    assert read(path, columns=Columns(ignored=["nr"]))[0]["nr"] == Part.IGNORED
    assert read(path, columns=Columns(features=["nr", "f0"]))[0]["nr"] == Part.FEATURE


def test_distinct_numbers_of_an_npz_array_beside_the_record_ids_are_asked_about_too(tmp_path):
    x = np.stack([np.arange(100.0), np.linspace(0, 1, 100)], axis=1)
    ids = np.array([f"r{i}" for i in range(100)])
    np.savez(tmp_path / "x.npz", x=x, y=np.zeros(100, int), id=ids)
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "x.npz")
    assert caught.value.column == "x[0]"
    read(tmp_path / "x.npz", columns=Columns(features=["x"]))


def test_a_few_distinct_numbers_are_features_but_a_few_consecutive_ones_are_not(tmp_path):
    path = table(tmp_path / "x.csv", numbered(6, age=[31, 60, 44, 20, 51, 38]))
    assert read(path)[0]["age"] == Part.FEATURE
    path = table(tmp_path / "x.csv", numbered(6, age=[31, 32, 33, 34, 35, 36]))
    with pytest.raises(ReadError, match="numbers the rows"):
        read(path)


def test_a_column_of_an_npz_array_that_numbers_the_rows_is_refused_unless_declared(tmp_path):
    x = np.stack([np.arange(100.0), np.linspace(0, 1, 100)], axis=1)
    np.savez(tmp_path / "x.npz", x=x, y=np.zeros(100, int))
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "x.npz")
    assert caught.value.column == "x[0]"
    read(tmp_path / "x.npz", columns=Columns(features=["x"]))


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_index_that_pandas_wrote_is_refused_until_its_part_is_said(tmp_path, suffix, name):
    path = table(tmp_path / f"x{suffix}", numbered(4, **{name: [3, 1, 2, 1]}))
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.column == name
    assert read(path, columns=Columns(subject_id=name))[2] == ["3", "1", "2", "1"]
    assert read(path, columns=Columns(ignored=[name]))[0][name] == Part.IGNORED


def test_the_index_that_parquet_metadata_names_is_refused_until_its_part_is_said(tmp_path):
    columns = {"when": ["a", "b", "c"], "v": [0.5, 1.5, 2.5], "label": [0, 1, 0]}
    range_index = {"kind": "range", "name": None, "start": 0, "stop": 3, "step": 1}
    path = tmp_path / "x.parquet"
    for index in (["when"], [range_index]):
        pandas = json.dumps({"index_columns": index, "columns": []})
        pq.write_table(pa.table(columns).replace_schema_metadata({"pandas": pandas}), path)
        if index == ["when"]:
            with pytest.raises(ReadError) as caught:
                read(path, columns=Columns(features=["v"]))
            assert caught.value.column == "when"
        else:
            assert read(path, columns=Columns(features=["v"]))[0]["when"] == Part.IGNORED
        assert read(path, columns=Columns(record_id="when"))[1] == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_two_columns_of_one_name_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == ".csv":
        path.write_text("a,a,label\n0.5,1,0\n")
    else:
        pq.write_table(
            pa.Table.from_arrays(
                [pa.array([0.5]), pa.array([1]), pa.array([0])], ["a", "a", "label"]
            ),
            path,
        )
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.column == "a"
    assert "rename" in str(caught.value)


def test_every_column_says_how_its_part_was_found(tmp_path):
    columns = {"Id": [7, 9], "note": ["x", "y"], "v": [0.5, 1.5], "w": [1.5, 2.5], "kind": [0, 1]}
    path = table(tmp_path / "x.csv", columns)
    source = readers.open_source(path, columns=Columns(label="kind", ignored=["note"]))
    assert [(one.name, one.part, one.recognised) for one in source.columns] == [
        ("Id", Part.RECORD_ID, Recognised.NAME),
        ("note", Part.IGNORED, Recognised.DECLARED),
        ("v", Part.FEATURE, Recognised.REMAINING),
        ("w", Part.FEATURE, Recognised.REMAINING),
        ("kind", Part.LABEL, Recognised.DECLARED),
    ]


class Counted(str):
    """A column name that counts how often it is compared with another."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)


def comparisons(width):
    names = [Counted(f"column {number}") for number in range(width)]
    names += [Counted("label")]
    Counted.compared = 0
    columns = Columns(features=[Counted(name) for name in names[:-1]])
    found = parts.assign(names, columns)
    features, how = parts.features(names, columns, found)
    assert len(parts.describe(names, columns, found, features, how)) == width + 1
    return Counted.compared


def test_the_work_on_names_grows_with_their_number_and_not_its_square():
    assert comparisons(4000) < 2.5 * comparisons(2000)
