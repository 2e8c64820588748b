"""Variances against definitions: within classes, with single rows, and of paired differences."""

import numpy as np
import pytest

from tests.unlearning.verification.evidence import scores
from unlearning.verification.statistics import accuracy, estimates


def test_grouped_contributions_have_variance_of_stratified_mean() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([4, 7, 9], [5, 12, 30])
    values = rng.normal(groups, 1.0)
    found = np.sum(estimates.contributions(values, groups=groups) ** 2)
    expected = 0.0
    for group in (4, 7, 9):
        of_group = values[groups == group]
        share = len(of_group) / len(values)
        expected += share**2 * np.var(of_group, ddof=1) / len(of_group)
    assert found == pytest.approx(expected)
    assert found < 0.5 * np.sum(estimates.contributions(values) ** 2)


def test_one_group_is_as_good_as_none() -> None:
    values = np.random.default_rng(1).normal(size=20)
    one = estimates.contributions(values, groups=np.full(20, 3))
    np.testing.assert_allclose(one, estimates.contributions(values))
    hits = (values > 0).astype(float)
    assert estimates.proportion_floor(hits, groups=np.full(20, 3)) == pytest.approx(
        estimates.proportion_floor(hits)
    )


def test_proportion_floor_adds_two_hits_and_two_misses() -> None:
    hits = np.r_[np.ones(36), np.zeros(4)]
    adjusted = 38 / 44
    expected = np.sqrt(adjusted * (1 - adjusted) / 44)
    assert estimates.proportion_floor(hits) == pytest.approx(expected)
    assert estimates.proportion_floor(np.ones(40), groups=np.arange(40) % 4) > 0.02


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([5, 5, 6, 6], [0, 0, 1, 1]),
        ([5, 6, 7, 7], [0, 0, 2, 2]),
        ([5, 5, 5, 6, 6, 7], [0, 0, 0, 1, 1, 1]),
        ([5], [0]),
    ],
    ids=["none is single", "singles together", "a lone one with the smallest", "only one"],
)
def test_groups_of_one_row_are_joined(groups: list[int], expected: list[int]) -> None:
    assert estimates.strata(np.array(groups)).tolist() == expected


def test_single_rows_do_not_hide_the_variance() -> None:
    """Forty classes with a row each: the variance is that of the rows without any classes."""
    values = np.random.default_rng(2).normal(size=40)
    single = estimates.contributions(values, groups=np.arange(40))
    np.testing.assert_allclose(single, estimates.contributions(values))


def test_agreement_on_every_row_has_nonzero_error() -> None:
    same = accuracy.accuracy(scores(np.full(50, 0.1)))
    assert same.minus(same).standard_error == pytest.approx(1 / 52)
    left = same.minus(same, share=0.5).minus(same, share=0.5)
    assert left.standard_error == pytest.approx(1 / 52)
    gap = accuracy.gap(
        [(scores(np.full(50, 0.1)), scores(np.full(200, 0.1)))], np.full(200, 1 / 200)
    )
    assert gap.minus(gap).standard_error == pytest.approx(np.hypot(1 / 52, 1 / 202))


def test_average_of_perfect_models_keeps_interval_width() -> None:
    one = accuracy.accuracy(scores(np.full(50, 0.1)))
    mean = estimates.average([one, one, one])
    assert mean.standard_error == pytest.approx(one.standard_error)
    assert mean.interval(0.95)[0] < 0.97
    assert mean.minus(one).standard_error == pytest.approx(1 / 52)
