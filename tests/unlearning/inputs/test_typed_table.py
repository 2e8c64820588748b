"""What a network receives of typed columns: against a loop over the cells."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import vmap

from unlearning import inputs
from unlearning.errors import WrongOptions
from unlearning.inputs import typed_table
from unlearning.inputs.typed_table import Column, Options

COLUMNS = (
    Column("age", "whole", centre=40.0, scale=16.0, fill=40.0),
    Column("job", "category", words=("cook", "nurse"), missing=True, unknown=True),
    Column("pay", "number", centre=0.0, scale=1.0, fill=8.0, missing=True),
    Column("town", "category", words=("Bern", "Rom")),
    Column("member", "boolean", fill=0.5),
)
ROWS: list[tuple[Any, ...]] = [
    (40.0, "cook", 2.5, "Rom", 1.0),
    (72.0, "judge", None, "Bern", 0.0),
    (None, None, -1e6, "Oslo", None),
    (float(2**53 - 1), "nurse", None, None, 1.0),
]


def stored(rows: list[tuple[Any, ...]]) -> torch.Tensor:
    """Rows (n, columns, 2) int32, as a source's reader stores them."""
    cells = np.zeros((len(rows), len(COLUMNS)), np.int64)
    for row, values in enumerate(rows):
        for place, (column, value) in enumerate(zip(COLUMNS, values, strict=True)):
            if column.type == "category":
                cells[row, place] = 0 if value is None else typed_table.code_of(value)
            else:
                number = np.array(np.nan if value is None else value, np.float64)
                cells[row, place] = number.view(np.int64)
    return torch.from_numpy(cells.view(np.int32).reshape(len(rows), len(COLUMNS), 2))


def defined(values: tuple[Any, ...]) -> list[float]:
    """The features of one row, by their definition."""
    pairs = list(zip(COLUMNS, values, strict=True))
    numbers = [(column, value) for column, value in pairs if column.type != "category"]
    found = [((c.fill if v is None else v) - c.centre) / c.scale for c, v in numbers]
    found += [float(v is None) for c, v in numbers if c.missing]
    words = [(column, value) for column, value in pairs if column.type == "category"]
    for column, value in words:
        found += [float(value == word) for word in column.words]
        found += [float(value is None)] if column.missing else []
    for column, value in words:
        if column.unknown:
            found.append(float(value is not None and value not in column.words))
    return found


def kind() -> inputs.Kind:
    options = Options(COLUMNS)
    return inputs.Kind("typed_table", typed_table.INPUT, options)


def test_features_are_those_of_the_definition() -> None:
    (found,) = typed_table.INPUT.collate(stored(ROWS), Options(COLUMNS))
    expected = torch.tensor([defined(row) for row in ROWS], dtype=torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    parameters = typed_table.INPUT.parameters((len(COLUMNS), 2), Options(COLUMNS))
    assert parameters == {"inputs": found.shape[1]}


def test_rows_one_by_one_and_in_any_selection_have_the_same_features() -> None:
    rows = stored(ROWS)
    (whole,) = typed_table.INPUT.collate(rows, Options(COLUMNS))

    def one(row: torch.Tensor) -> torch.Tensor:
        return typed_table.INPUT.collate(row[None], Options(COLUMNS))[0][0]

    torch.testing.assert_close(vmap(one)(rows), whole, rtol=0, atol=0)
    (chosen,) = typed_table.INPUT.collate(rows[[2, 0]], Options(COLUMNS))
    torch.testing.assert_close(chosen, whole[[2, 0]], rtol=0, atol=0)
    (none,) = typed_table.INPUT.collate(rows[:0], Options(COLUMNS))
    assert none.shape == (0, whole.shape[1])


def test_code_of_a_word_follows_from_its_sha256_and_is_never_that_of_a_missing_one() -> None:
    digest = hashlib.sha256("Zürich".encode()).digest()
    assert typed_table.code_of("Zürich") == int(np.frombuffer(digest[:8], "<i8")[0])
    codes = {typed_table.code_of(str(number)) for number in range(10_000)}
    assert len(codes) == 10_000
    assert typed_table.MISSING not in codes


def test_facts_of_a_dataset_give_the_encoding_back() -> None:
    facts = inputs.facts(kind(), (len(COLUMNS), 2), "int32")
    assert facts["learned"] is True
    assert facts["scale"] is None
    assert inputs.kind("typed_table", facts["options"]) == kind()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"columns": []},
        {"columns": [{"name": "a", "type": "date"}]},
        {"columns": [{"name": "a", "type": "number", "scale": 0}]},
        {"columns": [{"name": "a", "type": "category", "words": [1]}]},
    ],
)
def test_encoding_that_is_not_one_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(WrongOptions):
        inputs.kind("typed_table", wrong)
