"""The test by exchange of rows, against its definition: all choices of the rows."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from unlearning.verification.statistics import exchange
from unlearning.verification.statistics.exchange import Exchange
from unlearning.verification.statistics.scores import Floats


def small() -> tuple[Exchange, list[list[int]]]:
    """Eleven rows in two strata, and all choices of two and four rows of them."""
    score = np.random.default_rng(0).normal(size=11)
    forgotten = np.isin(np.arange(11), (1, 2, 7, 8, 9, 10))
    stratum = (np.arange(11) >= 6).astype(np.int64)
    every = [[*a, *b] for a in combinations(range(6), 2) for b in combinations(range(6, 11), 4)]
    return Exchange(score, forgotten, stratum), every


def likelihood(scores: Floats) -> float:
    """Half or all of six rows are remembered: a tenth is less than one row."""
    return sum(float(np.prod(1 - e + e * np.exp(scores))) for e in (0.5, 1.0))


def test_the_p_value_is_that_of_all_choices_within_strata() -> None:
    both, every = small()
    ours = likelihood(both.score[both.forgotten])
    expected = np.mean([likelihood(both.score[rows]) >= ours - 1e-9 for rows in every])
    assert exchange.remembered_p(both) == pytest.approx(expected, abs=0.03)


def test_the_e_value_is_the_likelihood_over_its_mean_of_all_choices() -> None:
    both, every = small()
    each = [likelihood(both.score[rows]) for rows in every]
    expected = np.log(likelihood(both.score[both.forgotten]) / np.mean(each))
    assert exchange.log_e_value(both) == pytest.approx(expected)


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
def test_strata_hold_as_many_never_seen_rows(forgotten: int, never_seen: int, count: int) -> None:
    margins = np.random.default_rng(2).normal(size=forgotten + never_seen)
    parted = margins[:forgotten], margins[forgotten:]
    both = Exchange.of(parted, parted)
    assert np.all(np.diff(both.stratum[np.argsort(margins)]) >= 0)
    sizes = np.bincount(both.stratum[~both.forgotten])
    assert len(sizes) == count
    assert np.ptp(sizes) <= 1


def test_rows_harder_than_all_never_seen_ones_are_exchanged_with_the_hardest() -> None:
    margin = np.full(60, -12.0), np.arange(60.0)
    both = Exchange.of(margin, margin)
    assert np.all(both.stratum[:60] == 0)
    assert np.array_equal(both.stratum[60:], np.arange(60) // 30)


def test_rows_of_equal_margins_are_parted_whichever_kind_they_are_of() -> None:
    both = Exchange.of((np.zeros(200), np.zeros(200)), (np.zeros(200), np.zeros(200)))
    in_each = np.bincount(both.stratum[both.forgotten])
    # The forgotten rows between quantiles of as many never-seen ones: beta-binomial.
    deviation = np.sqrt(200 * 0.2 * 0.8 * (1 + 199 / 201))
    assert np.all(np.abs(in_each - 40) < 4 * deviation)


@pytest.mark.parametrize("tenth", [0.0, 3.0])
def test_many_rows_are_judged_by_the_normal_distribution_alike(
    monkeypatch: pytest.MonkeyPatch, tenth: float
) -> None:
    score = np.random.default_rng(3).normal(-1, 1, size=600)
    score[:10] += tenth
    both = Exchange(score, np.arange(600) < 200, np.arange(600, dtype=np.int64) % 4)
    drawn = exchange.remembered_p(both)
    monkeypatch.setattr(exchange, "_DRAWN_ROWS", 50)
    assert exchange.remembered_p(both) == pytest.approx(drawn, abs=0.1)


def test_without_rows_to_exchange_nothing_is_shown() -> None:
    both = Exchange(np.arange(5.0), np.ones(5, dtype=np.bool_), np.zeros(5, dtype=np.int64))
    assert exchange.remembered_p(both) == 1
    assert exchange.log_e_value(both) == pytest.approx(0.0)


def test_a_tenth_of_the_rows_remembered_well_is_told() -> None:
    """Where the mean is too little to tell: 20 of 200 rows with a log-likelihood ratio of 4."""
    score = np.random.default_rng(4).normal(-1, 1.5, size=700)
    forgotten, stratum = np.arange(700) < 200, np.arange(700, dtype=np.int64) % 5
    assert exchange.remembered_p(Exchange(score, forgotten, stratum)) > 0.05
    score[:20] = 4.0
    assert exchange.remembered_p(Exchange(score, forgotten, stratum)) <= 0.001


def test_forgotten_rows_without_never_seen_ones_are_in_one_stratum() -> None:
    none, some = np.zeros(0), np.arange(3.0)
    both = Exchange.of((some, none), (some, none))
    assert not both.stratum.any()
    assert exchange.remembered_p(both) == 1
    assert exchange.log_e_value(both) == pytest.approx(0.0)


@pytest.mark.parametrize("rows", [(400, 301), (501, 907)])
def test_equal_scores_of_many_rows_show_nothing(rows: tuple[int, int]) -> None:
    """However the sums of equal numbers are rounded."""
    for value in np.random.default_rng(5).normal(scale=3, size=50):
        forgotten, never_seen = (np.full(one, value) for one in rows)
        both = Exchange.of((forgotten, never_seen), (forgotten, never_seen))
        assert exchange.remembered_p(both) >= 0.5
