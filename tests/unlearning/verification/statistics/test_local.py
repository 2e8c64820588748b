"""Neighbourhoods, and the error rate of tests within them."""

import numpy as np
import pytest

from unlearning.verification.statistics import local


def test_neighbours_are_the_rows_nearest_in_the_order_of_the_margins() -> None:
    random = np.random.default_rng(0)
    never_seen, forget = random.normal(size=200), np.array([-9.0, 0.1, 9.0, *np.zeros(7)])
    near = local.neighbours(forget, never_seen).rows
    ordered = np.sort(never_seen)
    assert near.shape == (10, 40)
    # Of few rows each needs more neighbours for a small p-value.
    assert local.neighbours(forget[:9], never_seen).rows.shape == (9, 80)
    assert np.array_equal(np.sort(never_seen[near[0]]), ordered[:40])
    assert np.array_equal(np.sort(never_seen[near[2]]), ordered[-40:])
    below = int(np.sum(never_seen < 0.1))
    assert np.array_equal(np.sort(never_seen[near[1]]), ordered[below - 20 : below + 20])


def test_ranks_are_shares_of_neighbours_below_with_ties_counted_half() -> None:
    never_seen = np.repeat([0.0, 1.0, 2.0, 3.0], 10)
    near = local.Neighbours(np.arange(40)[None].repeat(3, 0), 40)
    found = local.ranks(np.array([-1.0, 1.0, 2.5]), never_seen, near)
    assert found == pytest.approx([0.0, 0.375, 0.75])


def test_a_p_value_by_drawing_is_that_of_all_draws() -> None:
    forget = np.array([2.0, 2.5])
    candidates = np.array([[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 2.5, 4.0]])
    every = [a + b for a in (*candidates[0], forget[0]) for b in (*candidates[1], forget[1])]
    expected = np.mean([one >= forget.sum() for one in every])
    assert local.p_value(forget, candidates) == pytest.approx(expected, abs=0.03)
    shifted = [
        a + b for a in (*(candidates[0] + 1), forget[0]) for b in (*(candidates[1] + 1), forget[1])
    ]
    expected = np.mean([one >= forget.sum() for one in shifted])
    assert local.p_value(forget, candidates, shift=1.0) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("rows", [1, 3, 30, 150])
def test_rows_like_their_neighbours_are_rarely_called_different(rows: int) -> None:
    """At most 1 % of draws, and 3 more standard errors of 400 draws, have p <= .01.

    Noise grows with difficulty, and only the hardest rows are chosen: neither matters.
    """
    random = np.random.default_rng(rows)
    alarms = 0
    for _ in range(400):
        outside = np.sort(random.normal(size=500 + rows))
        score = outside + np.exp(outside / 2) * random.normal(size=len(outside))
        hard = np.sort(random.choice(len(outside) // 2, rows, replace=False))
        rest = np.setdiff1d(np.arange(len(outside)), hard)
        near = local.neighbours(outside[hard], outside[rest])
        excess = score - outside
        p = local.upper_p(excess[hard], excess[rest][near.rows], never_seen=len(rest))
        alarms += p <= 0.01
    assert alarms <= 400 * (0.01 + 3 * np.sqrt(0.01 * 0.99 / 400))


def test_many_rows_are_judged_by_the_normal_distribution_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(1)
    candidates = random.normal(size=(100, 400))
    forget = random.normal(size=100)
    for shift in (0.0, 0.1):
        drawn = local.upper_p(forget, candidates, never_seen=10**9, shift=shift)
        assert drawn == local.p_value(forget, candidates, shift=shift)
        with monkeypatch.context() as patched:
            patched.setattr(local, "_DRAWN_ROWS", 50)
            normal = local.upper_p(forget, candidates, never_seen=10**9, shift=shift)
            fewer = local.upper_p(forget, candidates, never_seen=300, shift=shift)
        assert normal == pytest.approx(drawn, abs=0.03)
        assert abs(fewer - 0.5) < abs(normal - 0.5)


def test_the_likelihood_is_that_of_a_share_of_remembered_rows_averaged() -> None:
    scores = np.random.default_rng(3).normal(size=(4, 6))
    each = [np.prod(1 - e + e * np.exp(scores), axis=1) for e in (0.1, 0.5, 1.0)]
    assert np.exp(local.likelihood(scores)) == pytest.approx(np.sum(each, axis=0))


def test_a_tenth_of_the_rows_remembered_well_is_told() -> None:
    """Where the mean is too little to tell: 20 of 200 rows with a log-likelihood ratio of 4."""
    random = np.random.default_rng(4)
    candidates = random.normal(-1, 1.5, size=(200, 100))
    forget = random.normal(-1, 1.5, size=200)
    assert local.remembered_p(forget, candidates, never_seen=500) > 0.05
    forget[:20] = 4.0
    assert local.remembered_p(forget, candidates, never_seen=500) <= 0.001


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_share_of_remembered_rows_is_found(share: float) -> None:
    """Scores are the log-likelihood ratios of a shift by 3 standard deviations."""
    random = np.random.default_rng(5)
    remembered = np.arange(1000) < 1000 * share
    values = random.normal(size=1000) + 3 * remembered
    assert local.remembered_share(3 * values - 4.5) == pytest.approx(share, abs=0.03)
