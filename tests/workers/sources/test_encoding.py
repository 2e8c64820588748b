"""What is learned of a typed table: from training rows, of many people, whatever the chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearning.inputs import typed_table
from unlearning.inputs.typed_table import Column, Options
from workers.readers import Chunk, ReadError, Table
from workers.sources import encoding, reading
from workers.sources.encoding import FLOOR

TYPES: dict[str, Any] = {"age": "number", "job": "category"}
WORDS = {"job": {"cook", "judge", "nurse"}}


def rows(
    ages: list[float | None], jobs: list[str | None], people: list[str] | None = None
) -> Chunk:
    """One chunk of these rows, as a reader gives it."""
    cells = np.empty((len(ages), 2), np.int64)
    numbers = np.array([np.nan if age is None else age for age in ages], np.float64)
    cells[:, 0] = numbers.view(np.int64)
    cells[:, 1] = [0 if job is None else typed_table.code_of(job) for job in jobs]
    x = cells.view(np.int32).reshape(len(ages), 2, 2)
    return Chunk(x=x, labels=np.zeros(len(ages), np.int64), subject_ids=people)


def learn(chunk: Chunk, training: list[bool] | None = None, **options: Any) -> Options:
    chosen = np.ones(len(chunk), bool) if training is None else np.array(training)
    stated = {"standardised": True, **options}
    return encoding.learn(iter([chunk]), chosen, TYPES, WORDS, **stated)


def test_word_has_a_feature_once_ten_training_rows_have_it() -> None:
    jobs = ["cook"] * FLOOR + ["nurse"] * FLOOR + ["judge"] * (FLOOR - 1)
    training = [True] * (FLOOR * 2 - 1) + [False] + [True] * (FLOOR - 1)
    made = learn(rows([1.0] * len(jobs), [*jobs]), training)
    assert made.columns[1].words == ("cook",)
    # The nine judges and nine nurses have one feature in common.
    assert made.columns[1].unknown is True
    assert learn(rows([1.0] * len(jobs), [*jobs])).columns[1].words == ("cook", "nurse")


def test_few_with_rare_words_have_no_feature_in_common() -> None:
    jobs = ["cook"] * 50 + ["judge"] * 4 + ["nurse"] * 5
    assert learn(rows([1.0] * len(jobs), [*jobs])).columns[1] == Column(
        "job", "category", words=("cook",)
    )


def test_many_rows_of_few_people_count_as_few() -> None:
    jobs: list[str | None] = ["cook"] * 50 + ["judge"] * 50 + [None] * 50
    cooks = [f"p{n % FLOOR}" for n in range(50)]
    judges = [f"q{n % (FLOOR - 1)}" for n in range(50)]
    made = learn(rows([None] * 50 + [1.0] * 100, jobs, [*cooks, *judges, *judges]))
    assert made.columns[1] == Column("job", "category", words=("cook",))
    assert made.columns[0].missing is True
    fewer = learn(rows([1.0] * 50 + [None] * 100, jobs, [*cooks, *judges, *judges]))
    assert fewer.columns[0].missing is False


def test_centre_and_scale_are_the_mean_and_deviation_roughly() -> None:
    ages = np.random.default_rng(3).normal(47.3, 11.0, 2000)
    column = learn(rows([*ages, None], [None] * 2001)).columns[0]
    assert math.log2(column.scale) == round(math.log2(ages.std()))
    assert abs(column.centre - ages.mean()) <= column.scale / 16
    assert column.centre % (column.scale / 8) == 0
    assert column.fill == column.centre


def test_one_person_more_does_not_change_what_is_learned() -> None:
    ages = [float(n % 80) for n in range(1000)]
    jobs: list[str | None] = ["cook"] * 1000
    without, alone = learn(rows(ages, jobs)), learn(rows([*ages, 97.0], [*jobs, "judge"]))
    assert without == alone


def test_fewer_than_ten_values_are_neither_centred_nor_scaled() -> None:
    column = learn(rows([1e6] * (FLOOR - 1) + [None] * 20, [None] * 29)).columns[0]
    assert column == Column("age", "number", missing=True)


def test_one_value_throughout_becomes_zero() -> None:
    column = learn(rows([1.7e9] * 30, [None] * 30)).columns[0]
    assert (column.centre, column.scale) == (1.7e9, 1.0)


def test_numbers_stay_as_they_are_if_the_source_says_so() -> None:
    column = learn(rows([30.0, 50.0] * 20, [None] * 40), standardised=False).columns[0]
    assert (column.centre, column.scale, column.fill) == (0.0, 1.0, 40.0)


def test_what_is_learned_does_not_depend_on_the_chunks() -> None:
    random = np.random.default_rng(5)
    ages = [None if one < -1.5 else one * 1e3 for one in random.normal(0.1, 1, 3000).tolist()]
    jobs = [["cook", "judge", "nurse", None][n] for n in random.integers(0, 4, 3000)]
    people = [f"p{n}" for n in random.integers(0, 14, 3000)]
    training = random.random(3000) < 0.8
    whole = rows(ages, jobs, people)

    def pieces(size: int) -> Iterator[Chunk]:
        for start in range(0, 3000, size):
            here = np.zeros(3000, bool)
            here[start : start + size] = True
            yield whole.only(here)

    found = {
        encoding.learn(pieces(size), training, TYPES, WORDS, standardised=True)
        for size in (1, 7, 1000, 3000)
    }
    assert len(found) == 1


def test_moments_over_several_blocks_are_those_of_numpy() -> None:
    values = np.random.default_rng(6).normal(5e5, 2.0, (5000, 3))
    values[::7, 1] = np.nan
    sums = encoding._Sums([0, 1])
    sums._size = 600
    for piece in np.array_split(values, 11):
        sums.add(piece)
    for place, found in sums.finish().items():
        column = values[:, place]
        assert found.count == np.isfinite(column).sum()
        assert found.mean == pytest.approx(np.nanmean(column), rel=1e-12)
        assert found.squares / found.count == pytest.approx(np.nanvar(column), rel=1e-9)


def test_words_without_a_feature_are_counted() -> None:
    options = Options(
        (Column("age", "number"), Column("job", "category", words=("cook",), missing=True))
    )
    counted = encoding.Unknown(options)
    counted.add(rows([1.0] * 4, ["cook", "judge", None, "nurse"]).x)
    counted.add(rows([1.0], ["judge"]).x)
    assert counted.counts == {"job": 3}


def census(path: Path, change: str = "") -> Path:
    lines = [
        f"{n % 50 + 20}, {['cook', 'nurse'][n % 2]}, {['no', 'yes'][n % 2]}" for n in range(80)
    ]
    path.write_text("\n".join(["age, job, label", *lines, *([change] if change else [])]) + "\n")
    return path


def test_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = census(tmp_path / "x.csv")

    def progress(done: int, expected: int) -> None:
        if done:
            census(path, "33, judge, no")

    assert reading.inspect(path, table=Table()).rows == 80
    with pytest.raises(ReadError, match="source was changed while it was read"):
        reading.inspect(path, table=Table(), progress=progress)


def test_nothing_is_learned_of_rows_that_are_left_out(tmp_path: Path) -> None:
    path = census(tmp_path / "x.csv")
    nurse = typed_table.code_of("nurse")

    def nurses(chunk: Chunk, _: Any) -> Any:
        return np.ascontiguousarray(chunk.x).view(np.int64)[:, 1, 0] == nurse

    whole, fewer = (reading.inspect(path, table=Table(), leave_out=one) for one in (None, nurses))
    words = [one.input["options"]["columns"][1]["words"] for one in (whole, fewer)]
    assert words == [("cook", "nurse"), ("cook",)]
    assert (fewer.rows, fewer.input["parameters"]) == (40, {"inputs": 2})
