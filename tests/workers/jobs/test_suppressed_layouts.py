"""Forgotten rows of a table stay out of the same table in another form, without subjects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet
import pytest

from service.ledger.database.states import DatasetStatus
from service.ledger.destruction import withdrawals
from service.ledger.registry import datasets
from tests.workers.shop import Shop
from workers.jobs import erase

#: A table by its columns.
Table = dict[str, list[Any]]

ROWS = 40
FORGOTTEN = ("row-000005", "row-000010")


#: What is tested does not depend on the database; ``test_suppression`` runs on both.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def _people() -> Table:
    """People without ids: numbers with decimals, whole numbers, a truth value, a word, a label."""
    return {
        "height": [150 + row % 23 / 10 for row in range(ROWS)],
        "age": [20 + row % 7 for row in range(ROWS)],
        "member": [["no", "yes"][row % 2] for row in range(ROWS)],
        "job": [["cook", "judge", "nurse"][row % 3] for row in range(ROWS)],
        "label": [row % 2 for row in range(ROWS)],
    }


def _numbers() -> Table:
    return {name: _people()[name] for name in ("height", "age", "label")}


def _odd(table: Table, column: str, text: Callable[[Any], str] = str) -> Table:
    """The table with one word in the last row of a column of others, which becomes text."""
    return {**table, column: [*map(text, table[column][:-1]), "unknown"]}


def _reversed(table: Table) -> Table:
    return dict(reversed(table.items()))


def _wider(table: Table) -> Table:
    return {"weight": [70.5 + row % 3 for row in range(ROWS)], **table}


def _add(shop: Shop, name: str, content: Table, suffix: str = "csv", **source: Any) -> int:
    """Ingest a table; return how many rows were left out."""
    path = shop.settings.sources / f"{name}.{suffix}"
    write = arrow_csv.write_csv if suffix == "csv" else parquet.write_table
    write(pa.table(content), path)
    made = shop.add(name, path.name, **source)
    assert made.status == DatasetStatus.READY, made.error
    assert made.rows == ROWS - shop.suppressed(name)
    return shop.suppressed(name)


def _forget(shop: Shop, content: Table, suffix: str = "csv", **source: Any) -> None:
    assert _add(shop, "before", content, suffix, **source) == 0
    shop.forget("before", record_ids=FORGOTTEN)


@pytest.mark.parametrize("change", [_reversed, _wider])
@pytest.mark.parametrize("typed", [False, True])
def test_columns_in_another_order_or_beside_further_ones_let_nobody_back(
    shop: Shop, change: Callable[[Table], Table], typed: bool
) -> None:
    table = _people() if typed else _numbers()
    source: dict[str, Any] = {"table": {}} if typed else {}
    _forget(shop, table, **source)
    assert _add(shop, "again", change(table), **source) == len(FORGOTTEN)
    assert set(FORGOTTEN).isdisjoint(shop.records("again"))


@pytest.mark.parametrize(
    ("typed", "suffixes"),
    [
        ((True, False), ("csv", "csv")),
        ((False, True), ("csv", "parquet")),
        ((False, True), ("parquet", "csv")),
    ],
)
def test_a_row_is_known_whether_or_not_the_table_is_typed(
    shop: Shop, typed: Sequence[bool], suffixes: Sequence[str]
) -> None:
    before, after = (dict[str, Any](table={}) if one else {} for one in typed)
    table = _numbers()
    _forget(shop, table, suffixes[0], **before)
    assert _add(shop, "again", _reversed(table), suffixes[1], **after) == len(FORGOTTEN)


@pytest.mark.parametrize(
    ("column", "odd_first"), [("height", True), ("height", False), ("age", True)]
)
def test_a_column_that_one_odd_word_turns_into_words_lets_nobody_back(
    shop: Shop, column: str, odd_first: bool
) -> None:
    usual = _people()
    odd = _odd(usual, column)
    before, after = (odd, usual) if odd_first else (usual, odd)
    _forget(shop, before, table={})
    assert _add(shop, "again", after, table={}) == len(FORGOTTEN)


def test_numbers_with_as_many_decimals_each_are_known_behind_an_odd_word(shop: Shop) -> None:
    usual = {**_people(), "height": [f"{1.5 + row % 7 / 2:.2f}" for row in range(ROWS)]}
    _forget(shop, _odd(usual, "height"), table={})
    assert _add(shop, "again", usual, table={}) == len(FORGOTTEN)


@pytest.mark.parametrize(
    ("words", "odd_first"),
    [(("no", "yes"), False), (("no", "yes"), True), (("False", "True"), True)],
)
def test_truth_values_that_one_odd_word_turns_into_words_let_nobody_back(
    shop: Shop, words: Sequence[str], odd_first: bool
) -> None:
    table = {**_people(), "member": [words[row % 2] for row in range(ROWS)]}
    odd = _odd(table, "member")
    before, after = (odd, table) if odd_first else (table, odd)
    _forget(shop, before, table={})
    assert _add(shop, "again", after, table={}) == len(FORGOTTEN)


def _surveyed(*written: tuple[str, str]) -> Table:
    """People with a truth value for each pair of words that a column is written in."""
    answers = {
        f"q{i}": [pair[row % (i + 2) % 2] for row in range(ROWS)] for i, pair in enumerate(written)
    }
    return {**answers, **_people()}


def _each_odd(table: Table, columns: Sequence[str]) -> Table:
    return functools.reduce(_odd, columns, table)


@pytest.mark.parametrize("odd_first", [True, False])
@pytest.mark.parametrize(
    "written",
    [
        [("FALSE", "TRUE"), ("No", "Yes")],
        [("FALSE", "yes"), ("0", "YES")],
        [("0", "1"), ("NO", "YES"), ("false", "true"), ("False", "True"), ("No", "Yes")],
    ],
)
def test_columns_of_truth_values_that_are_each_written_in_their_own_way_let_nobody_back(
    shop: Shop, written: Sequence[tuple[str, str]], odd_first: bool
) -> None:
    table = _surveyed(*written)
    columns = [name for name in table if name.startswith("q")]
    odd = _each_odd(table, [*columns, "member"])
    before, after = (odd, table) if odd_first else (table, odd)
    types = dict.fromkeys(columns, "boolean")
    said = {"table": {"types": types}}, {"table": {}}
    _forget(shop, before, **said[odd_first])
    assert _add(shop, "again", after, **said[not odd_first]) == len(FORGOTTEN)


def test_rare_words_of_truth_values_are_known_in_each_column_of_its_own(shop: Shop) -> None:
    """So few rows have them that nothing is kept of them."""
    table = _surveyed(("no", "yes"), ("no", "yes"))
    for name, word in (("q0", "TRUE"), ("q1", "Yes")):
        table[name] = [
            word if one == "yes" and row < 12 else "no" for row, one in enumerate(table[name])
        ]
    _forget(shop, _each_odd(table, ["q0", "q1"]), table={})
    assert _add(shop, "again", table, table={}) == len(FORGOTTEN)


def test_columns_of_numbers_that_are_each_written_in_their_own_way_let_nobody_back(
    shop: Shop,
) -> None:
    table = {
        **_people(),
        "height": [f"{1.5 + row % 7 / 2:.2f}" for row in range(ROWS)],
        "weight": [f"{60 + row % 5 / 2:.1f}" for row in range(ROWS)],
        "paid": [str(row % 3 / 2).removesuffix(".0") for row in range(ROWS)],
    }
    _forget(shop, _each_odd(table, ["height", "weight", "paid"]), table={})
    assert _add(shop, "again", table, table={}) == len(FORGOTTEN)


def test_the_declared_order_of_features_is_the_one_that_counts(shop: Shop) -> None:
    table = _numbers()
    _forget(shop, table, columns={"features": ["age", "height"]})
    assert _add(shop, "again", table) == len(FORGOTTEN)


def test_rows_of_a_removed_dataset_stay_out_in_another_order(shop: Shop) -> None:
    table = _people()
    _forget(shop, table, table={})
    with shop.runtime.session() as session:
        withdrawals.withdraw_dataset(
            session,
            datasets.get(session, "before"),
            models="withdraw",
            purge="now",
            actor="key:k",
            now=shop.runtime.now(),
        )
    erase.run_due(shop.runtime)
    assert _add(shop, "again", _reversed(table), table={}) == len(FORGOTTEN)


def test_rows_that_are_about_to_be_erased_stay_out_in_another_order(shop: Shop) -> None:
    table = _numbers()
    _add(shop, "before", table)
    shop.ask("before", record_ids=FORGOTTEN)
    assert _add(shop, "again", _reversed(table)) == len(FORGOTTEN)


@pytest.mark.parametrize("change", ["value", "name"])
def test_another_row_in_the_place_of_a_forgotten_one_comes_in(shop: Shop, change: str) -> None:
    table = _numbers()
    _forget(shop, table)
    if change == "value":
        other = {**table, "height": [one + 0.5 for one in table["height"]]}
    else:
        other = {{"age": "years"}.get(name, name): values for name, values in table.items()}
    assert _add(shop, "again", _reversed(other)) == 0
