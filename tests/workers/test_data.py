"""Sets of rows for a computation, from an array whose training rows are listed."""

from __future__ import annotations

import numpy as np
from sqlalchemy import select

from models_store import arrays
from service.ledger.tables import Dataset
from tests.workers.place import Place
from workers import data


def test_a_list_of_rows_takes_the_place_of_the_train_split_in_every_set(town: Place) -> None:
    with town.runtime.session() as session:
        key = session.scalars(select(Dataset.array_key)).one()
    splits = np.asarray(arrays.open(town.settings.store, str(key)).splits)
    train, validation, audit = (np.flatnonzero(splits == which).tolist() for which in range(3))
    listed = [*train[::2], *validation[:5], *audit[:7]]
    excluded = [train[0], audit[0], audit[-1]]
    forget = [train[2], audit[1]]
    rows = data.open_array(town.settings.store, str(key), excluded=excluded, trained_on=listed)

    def numbers(examples: data.Examples) -> list[int]:
        return sorted(examples.positions.tolist())

    assert numbers(rows.split(data.TRAIN)) == sorted(set(listed) - set(excluded))
    assert numbers(rows.split(data.VALIDATION)) == validation[5:]
    assert numbers(rows.split(data.AUDIT)) == audit[7:-1]
    assert numbers(rows.retain(forget)) == sorted(set(listed) - set(excluded) - set(forget))
    whole = data.open_array(town.settings.store, str(key), excluded=[])
    assert numbers(whole.split(data.TRAIN)) == train
    assert numbers(whole.split(data.AUDIT)) == audit
