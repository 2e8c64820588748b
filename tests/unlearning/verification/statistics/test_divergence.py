"""Jensen-Shannon divergence against its definition and scipy."""

import numpy as np
import pytest
from scipy.spatial import distance

from unlearning.verification.statistics import divergence


def test_divergence_is_scipys_squared_distance() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), 40), rng.dirichlet(np.ones(5), 40)
    p[0] = [1, 0, 0, 0, 0]
    expected = [distance.jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(divergence.jensen_shannon(p, q), expected, atol=1e-12)


def test_divergence_is_symmetric_zero_for_equals_and_one_for_opposites() -> None:
    p, q = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert divergence.jensen_shannon(p, p)[0] == 0.0
    assert divergence.jensen_shannon(p, q)[0] == pytest.approx(1.0)
    r = np.array([[0.3, 0.7]])
    assert divergence.jensen_shannon(p, r) == pytest.approx(divergence.jensen_shannon(r, p))
