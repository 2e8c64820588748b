"""Calibrated attacks against their formulas, row by row."""

from statistics import NormalDist

import numpy as np
import pytest

from unlearning.verification.attacks import lira


def losses(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(1.0, shape)


def test_log_odds_invert_the_sigmoid() -> None:
    loss = losses(50)
    p = np.exp(-loss)
    np.testing.assert_allclose(1 / (1 + np.exp(-lira.log_odds(loss))), p, rtol=1e-12)


@pytest.mark.parametrize("loss", [0.0, -0.0, 1e30])
def test_log_odds_of_certain_rows_are_finite(loss: float) -> None:
    assert np.isfinite(lira.log_odds(np.array([loss]))).all()


def test_offline_score_orders_rows_as_the_gaussian_tail_does() -> None:
    target, outside = lira.log_odds(losses(30)), lira.log_odds(losses(4, 30, seed=1))
    scores = lira.offline(target, outside, deviation=1.7)
    for i in range(30):
        below = NormalDist(float(outside[:, i].mean()), 1.7).cdf(float(target[i]))
        assert NormalDist().cdf(float(scores[i])) == pytest.approx(below, abs=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_counts_the_dominated_population(gamma: float) -> None:
    target, references = losses(20), losses(3, 20, seed=1)
    population, population_references = losses(40, seed=2), losses(3, 40, seed=3)
    scores = lira.rmia(target, references, population, population_references, gamma=gamma)
    for i in range(20):
        ratio = np.exp(-target[i]) / np.mean(np.exp(-references[:, i]))
        dominated = 0
        for j in range(40):
            other = np.exp(-population[j]) / np.mean(np.exp(-population_references[:, j]))
            dominated += ratio / other >= gamma
        assert scores[i] == pytest.approx(dominated / 40)


def test_rmia_of_population_row_lies_between_neighbours() -> None:
    """It neither dominates itself nor is dominated: the order is that of the likelihood ratios."""
    target, references = losses(30, seed=2), losses(3, 30, seed=3)
    found = lira.rmia(target, references, target, references)
    ratio = np.exp(-target) / np.mean(np.exp(-references), axis=0)
    assert np.sort(found).tolist() == pytest.approx([(k + 0.5) / 30 for k in range(30)])
    np.testing.assert_array_equal(np.argsort(found), np.argsort(ratio))
