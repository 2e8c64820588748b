"""Places of rows: the same wherever they are computed, and without a pattern."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sqlalchemy import BigInteger, cast, literal, select
from sqlalchemy.orm import Session

from service.messages import sampling

ROWS = [0, 1, 2, 999, 46_341, 1_000_003, 2**31 - 2, 2**31 - 1, 5_000_000_000]


def test_a_place_is_the_same_as_a_number_an_array_a_tensor_and_in_sql(session: Session) -> None:
    places = [sampling.place(row) for row in ROWS]
    assert all(0 <= place < sampling.PLACES for place in places)
    assert sampling.place(np.array(ROWS, dtype=np.int64)).tolist() == places
    assert sampling.place(torch.tensor(ROWS)).tolist() == places
    found = [session.scalar(select(sampling.place(cast(literal(r), BigInteger)))) for r in ROWS]
    assert found == places


@pytest.mark.parametrize("share", [0.002, 0.05, 0.4])
def test_a_sample_is_a_fair_share_of_rows_at_any_period(share: float) -> None:
    """Sources repeat with a period: a label every tenth row, a device every seventh."""
    taken = sampling.place(np.arange(1_000_000)) < share * sampling.PLACES
    for period in (1, 2, 3, 7, 10, 13, 21, 34, 55, 89, 100, 144):
        for first in range(0, period, max(1, period // 5)):
            among = taken[first::period]
            error = np.sqrt(share * (1 - share) / len(among))
            assert abs(among.mean() - share) < 5 * error


def test_neighbours_are_in_a_sample_independently_of_each_other() -> None:
    taken = sampling.place(np.arange(1_000_000)) < 0.1 * sampling.PLACES
    for distance in range(1, 60):
        both = (taken[:-distance] & taken[distance:]).mean()
        assert abs(both - 0.01) < 5 * np.sqrt(0.01 * 0.99 / 1_000_000)
