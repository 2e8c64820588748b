"""What the benchmark of pages tells and judges, by how busy the machine is."""

from __future__ import annotations

import pytest

from benchmarks import pages

FETCHED = {
    "requests": {
        "seconds": 0.3,
        "cpu_seconds": 0.02,
        "statements": 6,
        "bound": pages.MOST_SECONDS,
        "follows": True,
        "between_looks": 30,
    }
}


@pytest.mark.parametrize("others", [False, True])
def test_seconds_by_the_clock_are_left_out_where_others_work(others: bool) -> None:
    load = pages.MOST_LOAD + (0.1 if others else 0.0)
    told = pages._told(FETCHED, load)
    assert ("seconds" in told["requests"]) != others
    assert told["requests"]["cpu_seconds"] == FETCHED["requests"]["cpu_seconds"]
    seconds, statements, following = pages.judged(FETCHED, load)
    assert seconds.value == FETCHED["requests"]["cpu_seconds" if others else "seconds"]
    assert statements.value == FETCHED["requests"]["statements"]
    assert following.value == 0.02 * 60 / 30
