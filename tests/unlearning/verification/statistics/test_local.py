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
    found = local.ranks(np.array([-1.0, 1.0, 2.5]), never_seen[near.rows])
    assert found == pytest.approx([0.0, 0.375, 0.75])


@pytest.mark.parametrize("chosen", ["easiest", "hardest", "both"])
def test_rows_at_the_ends_are_like_their_moved_neighbours(chosen: str) -> None:
    """All neighbours of such a row are on one side of it; their values still fall around its own.

    Unmoved, the ranks of the easiest and hardest rows are far too extreme.
    """
    random = np.random.default_rng(6)
    outside = np.sort(random.normal(size=2000))
    value = 0.8 * outside + 0.3 * random.normal(size=len(outside))
    ends = {"hardest": np.arange(100), "easiest": np.arange(1900, 2000)}
    rows = ends.get(chosen, np.concatenate(list(ends.values())))
    # Every second row at the ends is a forgotten one, so that there are never-seen ones like it.
    ours = rows[::2]
    theirs = np.setdiff1d(np.arange(2000), ours)
    near = local.neighbours(outside[ours], outside[theirs])
    alike = local.moved(outside[ours], outside[theirs], value[theirs], near)
    far = np.mean(np.abs(local.ranks(value[ours], alike) - 0.5))
    unmoved = np.mean(np.abs(local.ranks(value[ours], value[theirs][near.rows]) - 0.5))
    assert far == pytest.approx(0.25, abs=3 * 0.144 / np.sqrt(len(ours)))
    assert unmoved > 0.35


def test_rows_with_equal_margins_have_the_ranks_of_rows_drawn_from_the_same_ones() -> None:
    """There are two margins only, each of half of the rows."""
    random = np.random.default_rng(8)
    outside = 3.0 * random.integers(2, size=4000)
    value = outside + 0.3 * random.normal(size=len(outside))
    near = local.neighbours(outside[:1000], outside[1000:])
    found = local.ranks(value[:1000], value[1000:][near.rows])
    assert np.mean(found) == pytest.approx(0.5, abs=3 * np.sqrt((1 / 1000 + 1 / 3000) / 12))


def test_moved_neighbours_lie_as_a_least_squares_line_says() -> None:
    random = np.random.default_rng(7)
    outside, value, forget = *random.normal(size=(2, 60)), np.array([0.3])
    near = local.Neighbours(np.arange(60)[None], 60)
    line = np.polynomial.Polynomial.fit(outside, value, 1)
    expected = value - line(outside) + line(forget[0])
    assert local.moved(forget, outside, value, near)[0] == pytest.approx(expected)


@pytest.mark.parametrize("easier", [-4.0, 0.0, 4.0])
def test_rows_chosen_for_their_difficulty_lie_by_the_shift_above_others(easier: float) -> None:
    """Difficulty of variance 4 and noise of variance 1: the slope is .8."""
    random = np.random.default_rng(9)
    truth = [2 * random.normal(size=4000), 2 * random.normal(size=4000) + easier]
    never_seen, forget = (one + random.normal(size=4000) for one in truth)
    values, own = (one + random.normal(size=4000) for one in truth)
    line = np.polynomial.Polynomial.fit(never_seen, values, 1)
    found = local.chosen_shift(forget, never_seen, values)
    assert found == pytest.approx(float(np.mean(own - line(forget))), abs=0.1)
    assert local.chosen_shift(forget[:9], never_seen, values) == 0.0


def test_a_tenth_left_as_it_was_rarely_shows_as_little_as_forgotten_rows_do() -> None:
    """The stated probability holds where a tenth was left, and forgotten rows are well below it."""
    random = np.random.default_rng(8)
    rows, draws = 300, 200
    candidates, left = random.normal(-1, 1, size=(rows, 200)), random.normal(2, 1, size=rows)
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(draws):
        for kept in (True, False):
            here = kept & (random.random(rows) < 0.1)
            scores = np.where(here, left, random.normal(-1, 1, size=rows))
            p = local.left_p(scores, left, candidates, never_seen=10**9)
            found[kept].append(p)
    assert np.mean(np.array(found[True]) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert np.mean(np.array(found[False]) <= 0.05) >= 0.9


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


@pytest.mark.seconds
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
        assert drawn == pytest.approx(local.p_value(forget, candidates, shift=shift), abs=1e-3)
        with monkeypatch.context() as patched:
            patched.setattr(local, "_DRAWN_ROWS", 50)
            normal = local.upper_p(forget, candidates, never_seen=10**9, shift=shift)
            fewer = local.upper_p(forget, candidates, never_seen=300, shift=shift)
        assert normal == pytest.approx(drawn, abs=0.03)
        assert abs(fewer - 0.5) < abs(normal - 0.5)


@pytest.mark.parametrize("rows", [20, 30, 60])
def test_few_never_seen_rows_are_a_sample_as_well(rows: int) -> None:
    """At most 1 % of draws, and 3 more standard errors of 400 draws, have p <= .01."""
    random = np.random.default_rng(rows)
    alarms = 0
    for _ in range(400):
        ours, theirs = random.normal(size=(2, rows)), random.normal(size=(2, 60))
        near = local.neighbours(ours[0], theirs[0])
        alarms += local.upper_p(ours[1], theirs[1][near.rows], never_seen=60) <= 0.01
    assert alarms <= 400 * (0.01 + 3 * np.sqrt(0.01 * 0.99 / 400))


@pytest.mark.parametrize(("rows", "shares"), [(1, [1.0]), (6, [0.5, 1.0]), (10, [0.1, 0.5, 1.0])])
def test_a_share_of_less_than_one_row_is_no_alternative(rows: int, shares: list[float]) -> None:
    assert local.shares(rows) == shares


def test_the_evidence_is_the_likelihood_ratio_of_a_share_of_remembered_rows() -> None:
    scores = np.random.default_rng(3).normal(size=(4, 5))
    assert np.exp(local.evidence(scores, 0.3)) == pytest.approx(0.7 + 0.3 * np.exp(scores))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_share_of_remembered_rows_is_found(share: float) -> None:
    """Scores are the log-likelihood ratios of a shift by 3 standard deviations."""
    random = np.random.default_rng(5)
    remembered = np.arange(1000) < 1000 * share
    values = random.normal(size=1000) + 3 * remembered
    assert local.remembered_share(3 * values - 4.5) == pytest.approx(share, abs=0.03)


def test_equal_values_of_many_rows_show_nothing() -> None:
    """Neither that rows are higher, nor that they are too low to have been left as they were."""
    for value in np.random.default_rng(6).normal(scale=3, size=50):
        forget, candidates = np.full(401, value), np.full((401, 307), value)
        assert local.upper_p(forget, candidates, never_seen=907) >= 0.5
        assert local.left_p(forget, forget, candidates, never_seen=907) >= 0.5
