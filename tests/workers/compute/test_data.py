"""Sets of rows for a computation, from an array whose training rows are listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sqlalchemy import select

from models_store import open_store
from service.ledger.database.tables import Dataset
from service.messages import sampling
from tests.workers.place import Place
from workers.compute import data
from workers.compute.workspace import Workspace


def test_a_list_of_rows_takes_the_place_of_the_train_split_in_every_set(town: Place) -> None:
    with town.runtime.session() as session:
        key = session.scalars(select(Dataset.array_key)).one()
    splits = np.asarray(open_store(town.settings.store).rows.open(str(key)).splits)
    train, validation, audit = (np.flatnonzero(splits == which).tolist() for which in range(3))
    listed = [*train[::2], *validation[:5], *audit[:7]]
    excluded = [train[0], audit[0], audit[-1]]
    forget = [train[2], audit[1]]
    rows = data.open_arrays(town.runtime.store, [str(key)], excluded=excluded, trained_on=listed)

    def numbers(examples: data.Examples) -> list[int]:
        return sorted(examples.positions.tolist())

    assert numbers(rows.split(data.TRAIN)) == sorted(set(listed) - set(excluded))
    assert numbers(rows.split(data.VALIDATION)) == validation[5:]
    assert numbers(rows.split(data.AUDIT)) == audit[7:-1]
    assert numbers(rows.retain(forget)) == sorted(set(listed) - set(excluded) - set(forget))
    whole = data.open_arrays(town.runtime.store, [str(key)], excluded=[])
    assert numbers(whole.split(data.TRAIN)) == train
    assert numbers(whole.split(data.AUDIT)) == audit


def test_a_sample_is_the_rows_below_a_limit_and_none_takes_the_place_of_an_excluded_one(
    town: Place,
) -> None:
    with town.runtime.session() as session:
        key = str(session.scalars(select(Dataset.array_key)).one())
    array = open_store(town.settings.store).rows.open(key)
    train = np.flatnonzero(np.asarray(array.splits) == data.TRAIN).tolist()
    by_place = sorted(train, key=sampling.place)
    for excluded, forget, count in (([], [], 50), (train[:900:2], train[1:40:3], 300), ([], [], 0)):
        rows = data.open_arrays(town.runtime.store, [key], excluded=excluded)
        limit = rows.limit(data.TRAIN, count)
        drawn = rows.sample(data.TRAIN, limit, without=forget).positions.tolist()
        assert drawn == sorted(set(by_place[:count]) - set(excluded) - set(forget))
        assert drawn == [
            row for row in train if sampling.place(row) < limit and row not in {*excluded, *forget}
        ]
    rows = data.open_arrays(town.runtime.store, [key], excluded=[])
    assert rows.limit(data.TRAIN, len(train)) == sampling.PLACES
    assert rows.limit(data.TRAIN, len(train) - 9, rest=10) == sampling.PLACES
    assert rows.limit(data.TRAIN, len(train) - 10, rest=10) == sampling.place(by_place[-10])
    assert rows.sample(data.TRAIN, sampling.PLACES).positions.tolist() == train


def test_layout_is_worked_out_once_for_an_array_and_a_list(town: Place) -> None:
    with town.runtime.session() as session:
        key = str(session.scalars(select(Dataset.array_key)).one())
    place = Workspace(device="cpu", threads=1)

    def layout(trained_on: list[int] | None) -> data.Layout:
        return data.open_arrays(
            town.runtime.store, [key], excluded=[3], trained_on=trained_on, remember=place.kept
        ).layout

    assert layout(None) is layout(None)
    assert layout([1, 2]) is layout([1, 2])
    assert layout([1, 2]) is not layout(None)
    assert layout([1, 3]).ordered[data.TRAIN].sort().values.tolist() == [1, 3]


def test_arrays_of_a_dataset_are_one_set_of_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 9, (30, 4)).astype(np.uint8)
    labels, splits = rng.integers(0, 3, 30), (np.arange(30) % 3).astype(np.uint8)
    store, keys = open_store(tmp_path), []
    for first, last in ((0, 12), (12, 13), (13, 30)):
        name = f"d/{first}"
        with store.rows.writer(name=name, dtype=np.uint8, shape=(4,)) as writer:
            writer.append(rows[first:last], labels[first:last])
            written = writer.finish(splits=splits[first:last], classes=3, source={})
        keys.append(written.key)
    whole = data.open_arrays(store, keys, excluded=[0, 12, 29])
    train = whole.split(data.TRAIN)
    expected = [row for row in range(30) if row % 3 == 0 and row not in (0, 12)]
    assert train.positions.tolist() == expected
    x, y = next(train.batches(30))
    np.testing.assert_array_equal(x, rows[expected])
    np.testing.assert_array_equal(y, labels[expected])
    # The dataset as it was before the last array came, whatever was excluded since.
    before = data.open_arrays(store, keys[:2], excluded=[0, 12, 29])
    assert before.split(data.TRAIN).positions.tolist() == [3, 6, 9]
