"""What counts as memorised, and as left, by right answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from unlearning.verification import Criteria, Scores, memorised

LOSS = {True: 0.01, False: 3.0}


def scores(correct: list[bool], label: int = 0, first: int = 0) -> Scores:
    return Scores(
        loss=np.array([LOSS[one] for one in correct]),
        correct=np.array(correct, dtype=np.bool_),
        label=np.full(len(correct), label),
        rows=np.arange(first, first + len(correct)),
    )


def right(count: int, rows: int, **named: int) -> Scores:
    return scores([True] * count + [False] * (rows - count), **named)


def measure(
    base: Scores, never_seen: Scores, updated: Scores, expected: list[float] | None = None
) -> memorised.Memorised:
    return memorised.measure(
        base,
        never_seen,
        updated=updated,
        criteria=Criteria(),
        expected=None if expected is None else np.array(expected),
    )


@pytest.mark.parametrize("q", [[0.3], [0.1, 0.9, 0.5], [0.0, 1.0, 0.2, 0.7]])
def test_probability_of_as_many_is_that_of_all_outcomes(q: list[float]) -> None:
    for count in range(len(q) + 2):
        expected = sum(
            math.prod(p if hit else 1 - p for p, hit in zip(q, hits, strict=True))
            for hits in itertools.product([False, True], repeat=len(q))
            if sum(hits) >= count
        )
        assert memorised.at_least(np.array(q), count) == pytest.approx(expected)


def test_normal_approximation_of_many_rows_agrees_with_the_exact_sum() -> None:
    seeded = np.random.default_rng(0)
    q = seeded.random(2001)
    exact = memorised.at_least(q[:2000], 1020)
    assert memorised.at_least(np.append(q[:2000], 0.0), 1020) == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize(
    ("rows", "never_seen", "shown"),
    [
        (12, 64, True),  # .64 to the twelfth is about .005
        (3, 64, False),  # more than a quarter of all models without the rows answer all three right
        (3, 37, False),
        (4, 30, True),
        (30, 95, False),  # answers do not show what is memorised where all rows are answered right
    ],
)
def test_answers_far_above_those_on_never_seen_rows_show_memory(
    rows: int, never_seen: int, shown: bool
) -> None:
    base = right(rows, rows)
    found = measure(base, right(never_seen, 100, first=100), base)
    assert (found.shown, found.left) == (shown, shown)


def test_few_rows_more_than_chance_are_not_far_above() -> None:
    base = right(1450, 2000)
    assert not measure(base, right(680, 1000, first=5000), base).shown


def test_classes_are_compared_each_with_its_own_never_seen_rows() -> None:
    hard, easy = right(10, 100, label=1, first=200), right(100, 100, label=0, first=400)
    never_seen = Scores(
        *(
            np.concatenate([getattr(hard, name), getattr(easy, name)])
            for name in ("loss", "correct", "label", "rows")
        )
    )
    assert measure(right(5, 5, label=1), never_seen, right(5, 5, label=1)).shown
    assert not measure(right(5, 5, label=0), never_seen, right(5, 5, label=0)).shown


def test_one_row_is_enough_where_models_without_it_rule_its_label_out() -> None:
    base, never_seen = right(1, 1), right(95, 100, first=100)
    assert measure(base, never_seen, base, [0.001]).left
    assert not measure(base, never_seen, base, [0.9]).shown
    # A row without margins is compared with its class.
    assert not measure(base, never_seen, base, [math.nan]).shown
    assert measure(base, never_seen, base, [math.nan]).by_margins == 0


def test_version_that_answers_as_a_model_without_the_rows_has_nothing_left() -> None:
    base, never_seen = right(20, 20), right(95, 100, first=100)
    q = [0.01] * 20
    assert measure(base, never_seen, right(19, 20), q).left
    assert measure(base, never_seen, right(4, 20), q).left  # chance does not give four
    gone = measure(base, never_seen, right(0, 20), q)
    assert gone.shown
    assert not gone.left


def test_less_than_half_of_the_excess_gone_is_left_however_few_the_rows() -> None:
    base, never_seen = right(12, 12), right(64, 100, first=100)
    assert measure(base, never_seen, right(10, 12)).left
    assert not measure(base, never_seen, right(9, 12)).left


def test_without_never_seen_rows_nothing_is_shown() -> None:
    assert not measure(right(9, 9), right(0, 0), right(9, 9)).shown


def test_memory_that_more_never_seen_rows_may_show_or_deny_is_near() -> None:
    base = right(8, 8)
    # .56 to the eighth is below .01 and .58 to the eighth is not.
    for never_seen in (right(27, 50, first=100), right(29, 50, first=100)):
        assert measure(base, never_seen, base).near
    assert not measure(base, right(2900, 5000, first=100), base).near
    assert measure(base, right(2700, 5000, first=100), base).near
    assert not measure(base, right(48, 50, first=100), base).near
    # Margins are the same however many never-seen rows are read.
    assert not measure(base, right(27, 50, first=100), base, [0.01] * 8).near
    assert "near" not in measure(base, right(27, 50, first=100), base).to_json()
