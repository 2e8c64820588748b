"""What a worker counts: bounded, and by names that are added without being known."""

from __future__ import annotations

import itertools
import threading

import pytest

from service.ledger.registry import counts
from service.ledger.registry.counts import BATCHES, CALLS, MAX_NAMES, PHASES, Counter


def test_counts_are_found_by_their_labels() -> None:
    counter = Counter()
    counter.add(CALLS, "unlearn", "answered")
    counter.add(CALLS, "unlearn", "answered")
    counter.add(CALLS, "train", "died", by=0.5)
    counter.add(BATCHES, "recorded")
    found = counts.of(CALLS, counter.now())
    assert found == {("unlearn", "answered"): 2, ("train", "died"): 0.5}


def test_a_duration_is_counted_in_the_smallest_bucket_that_holds_it() -> None:
    counter = Counter()
    for seconds in (*counts.BOUNDS, counts.BOUNDS[-1] * 2):
        counter.observe(PHASES, "load", seconds=seconds)
    found = counts.of(PHASES, counter.now())
    buckets = [found["load", str(place)] for place in range(len(counts.BOUNDS) + 1)]
    assert buckets == [1] * len(buckets)
    assert found["load", "sum"] == pytest.approx(sum(counts.BOUNDS) + counts.BOUNDS[-1] * 2)


def test_a_label_cannot_make_another_name() -> None:
    counter = Counter()
    counter.add(CALLS, "a;b", "c")
    assert counts.of(CALLS, counter.now()) == {("a,b", "c"): 1}


def test_the_names_are_bounded() -> None:
    counter = Counter()
    for number in range(2 * MAX_NAMES):
        counter.add(BATCHES, str(number))
    counter.add(BATCHES, "0")
    assert len(counter.now()) == MAX_NAMES
    assert counts.of(BATCHES, counter.now())["0",] == 2


def test_threads_lose_no_count() -> None:
    counter = Counter()

    def work() -> None:
        for _ in range(1000):
            counter.add(BATCHES, "recorded")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert counts.of(BATCHES, counter.now()) == {("recorded",): 4000}


def test_what_was_counted_since_is_the_difference() -> None:
    before = {"a": 1.0}
    after = {"a": 3.0, "b": 2.0}
    assert counts.since(after, before) == {"a": 2.0, "b": 2.0}
    assert counts.total([before, counts.since(after, before), None]) == after


def test_a_sum_does_not_depend_on_the_order_of_the_workers() -> None:
    """By its last bit it would, and a counter that falls was reset, for Prometheus."""
    told = [{"busy": 0.1}, {"busy": 0.2}, {"busy": 0.3}]
    sums = {counts.total(one)["busy"] for one in itertools.permutations(told)}
    assert sums == {0.6}
