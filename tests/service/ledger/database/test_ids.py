"""Public ids."""

from __future__ import annotations

import itertools
import time

from service.ledger.database import ids


def test_ids_sort_as_they_were_made_also_within_a_millisecond() -> None:
    made = [ids.new("dr") for _ in range(2000)]
    assert made == sorted(set(made))
    # Steps between those of one millisecond are random, so that no id gives away the next.
    steps = [ids._next(0) for _ in range(50)]
    assert len({later - one for one, later in itertools.pairwise(steps)}) == 49


def test_ids_do_not_go_back_with_the_clock() -> None:
    ahead = ids._next(time.time_ns() // 1_000_000 + 50)
    assert ids._next(0) > ahead


def test_ids_begin_with_the_time_as_soon_as_it_is_later() -> None:
    later = (ids._next(0) >> ids._RANDOM_BITS) + 1
    assert ids._next(later) >> ids._RANDOM_BITS == later
