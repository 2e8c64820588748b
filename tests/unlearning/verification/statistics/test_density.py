"""Conditional densities against known ones."""

from __future__ import annotations

import numpy as np
import pytest

from unlearning.verification.statistics import density
from unlearning.verification.statistics.scores import Floats


def sample(rows: int) -> tuple[Floats, Floats]:
    """A margin that is 2 + .8 m, with a normal error whose spread is 1 below and 2 above zero."""
    random = np.random.default_rng(0)
    outside = 3 * random.normal(size=rows)
    return _mean(outside) + _spread(outside) * random.normal(size=rows), outside


def _mean(outside: Floats) -> Floats:
    return 2 + 0.8 * outside


def _spread(outside: Floats) -> Floats:
    return np.where(outside < 0, 1.0, 2.0)


@pytest.mark.parametrize("at", [-3.0, 3.0])
def test_the_density_is_that_of_the_sample(at: float) -> None:
    spread = float(_spread(np.array([at]))[0])
    own = _mean(np.array([at])) + spread * np.linspace(-1.5, 1.5, 7)
    found = np.exp(density.log_density(own, np.full(7, at), sample(4000)))
    z = np.linspace(-1.5, 1.5, 7)
    true = np.exp(-(z**2) / 2) / (spread * np.sqrt(2 * np.pi))
    assert found == pytest.approx(true, rel=0.35)


@pytest.mark.parametrize("at", [-4.0, 0.0, 7.0])
def test_a_density_has_an_area_of_one(at: float) -> None:
    own = np.linspace(-400, 400, 40_001)
    found = np.exp(density.log_density(own, np.full(len(own), at), sample(300)))
    assert np.trapezoid(found, own) == pytest.approx(1.0, abs=0.01)


def test_rows_beyond_all_others_follow_the_regression_line_and_keep_a_density() -> None:
    """A wrong label that no other row has: its m is farther out than any of the sample."""
    outside = np.full(2, -20.0)
    near, far = density.log_density(np.array([-14.0, 10.0]), outside, sample(1000))
    assert near - far > 5
    assert np.isfinite(far)


def test_the_nearest_rows_are_as_many_below_as_above_where_there_are() -> None:
    found = density.nearest(np.array([-1.0, 4.5, 20.0]), np.arange(10.0)[::-1], 4)
    assert np.sort(np.arange(10.0)[::-1][found]).tolist() == [
        [0, 1, 2, 3],
        [3, 4, 5, 6],
        [6, 7, 8, 9],
    ]
