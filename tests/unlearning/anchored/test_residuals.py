"""Conjugate residuals on an ill-conditioned system, whose residual is computed."""

from itertools import pairwise

import torch

from unlearning.anchored import residuals


def _ill_conditioned():
    """A (40, 40) with eigenvalues from 1e-3 to 1e3, and b (40,)."""
    generator = torch.Generator().manual_seed(5)
    basis, _ = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.logspace(-3, 3, 40, dtype=torch.float64)) @ basis.T
    return matrix, torch.randn(40, generator=generator, dtype=torch.float64)


def test_conjugate_residuals_solve_within_the_tolerance():
    matrix, b = _ill_conditioned()
    products = []

    def product(v):
        products.append(v)
        return matrix @ v

    found = residuals.conjugate(product, b, tolerance=1e-8, iterations=2000)
    assert float((b - matrix @ found.x).norm()) <= 1.1e-8 * float(b.norm())
    assert len(products) == found.iterations < 2000


def test_a_limit_of_iterations_leaves_a_smaller_residual_each_time():
    matrix, b = _ill_conditioned()
    left = [float(b.norm())]
    for limit in range(1, 30):
        found = residuals.conjugate(lambda v: matrix @ v, b, tolerance=0, iterations=limit)
        assert found.iterations == limit
        left.append(float((b - matrix @ found.x).norm()))
    assert all(after < before for before, after in pairwise(left))
