"""The exact test by exchange of rows, against its definition."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from unlearning.verification.statistics import exchange, local
from unlearning.verification.statistics.exchange import Pool


def test_the_p_value_is_that_of_all_choices_within_strata() -> None:
    random = np.random.default_rng(0)
    score = random.normal(size=11)
    forgotten = np.isin(np.arange(11), (1, 2, 7, 8, 9, 10))
    stratum = (np.arange(11) >= 6).astype(np.int64)
    found = exchange.remembered_p(Pool(score, forgotten, stratum))
    every = [
        local.likelihood(score[[*a, *b]])
        for a in combinations(range(6), 2)
        for b in combinations(range(6, 11), 4)
    ]
    expected = np.mean(np.array(every) >= local.likelihood(score[forgotten]) - 1e-9)
    assert found == pytest.approx(expected, abs=0.03)


def test_every_subset_is_as_likely() -> None:
    drawn = exchange.subsets(5, 3, 20_000, np.random.default_rng(1))
    found = [tuple(sorted(int(i) for i in one)) for one in drawn.T]
    every = list(combinations(range(5), 3))
    assert set(found) == set(every)
    counts = np.array([found.count(one) for one in every])
    assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000 * 0.9))


@pytest.mark.parametrize(
    ("forgotten", "never_seen", "count"), [(1, 50, 1), (1, 400, 2), (10, 100, 3), (10, 400, 5)]
)
def test_strata_hold_enough_never_seen_rows(forgotten: int, never_seen: int, count: int) -> None:
    margins = np.random.default_rng(2).normal(size=forgotten + never_seen)
    found = exchange.strata(margins, forgotten=forgotten)
    assert len(np.unique(found)) == count
    assert np.all(np.diff(found[np.argsort(margins)]) >= 0)
    assert np.ptp(np.bincount(found)) <= 1


@pytest.mark.parametrize("tenth", [0.0, 3.0])
def test_many_rows_are_judged_by_the_normal_distribution_alike(
    monkeypatch: pytest.MonkeyPatch, tenth: float
) -> None:
    random = np.random.default_rng(3)
    score = random.normal(-1, 1, size=600)
    score[:10] += tenth
    pool = Pool(score, np.arange(600) < 200, np.arange(600, dtype=np.int64) % 4)
    drawn = exchange.remembered_p(pool)
    monkeypatch.setattr(exchange, "_DRAWN_ROWS", 50)
    assert exchange.remembered_p(pool) == pytest.approx(drawn, abs=0.1)


def test_without_rows_to_exchange_nothing_is_shown() -> None:
    pool = Pool(np.arange(5.0), np.ones(5, dtype=np.bool_), np.zeros(5, dtype=np.int64))
    assert exchange.remembered_p(pool) == 1


def test_a_tenth_of_the_rows_remembered_well_is_told() -> None:
    """Where the mean is too little to tell: 20 of 200 rows with a log-likelihood ratio of 4."""
    score = np.random.default_rng(4).normal(-1, 1.5, size=700)
    forgotten, stratum = np.arange(700) < 200, np.arange(700, dtype=np.int64) % 5
    assert exchange.remembered_p(Pool(score, forgotten, stratum)) > 0.05
    score[:20] = 4.0
    assert exchange.remembered_p(Pool(score, forgotten, stratum)) <= 0.001
