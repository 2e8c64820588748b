import math

import pytest
import torch

from unlearning.anchored import law
from unlearning.anchored.law import Law, Point


def _points(n=40, noise=0.0):
    generator = torch.Generator().manual_seed(0)
    points = []
    for _ in range(n):
        size = int(4 ** torch.randint(0, 5, (), generator=generator))
        slope = float(torch.rand((), generator=generator)) * 5 + 0.1
        error = noise * float(torch.randn((), generator=generator))
        strength = math.exp(-2 + error) * size**0.25 * slope**-0.5
        points.append(Point(size, slope, strength, 1.0))
    return points


def test_fit_finds_the_law_that_made_the_points():
    fitted = law.fit(_points())
    assert (fitted.constant, fitted.size_power, fitted.slope_power) == pytest.approx(
        (-2, 0.25, -0.5), abs=1e-9
    )
    assert fitted.residual < 1e-9
    assert fitted.strength(100, 2.0) == pytest.approx(math.exp(-2) * 100**0.25 * 2**-0.5)


def test_weights_count_as_repetition():
    points = _points(noise=0.3)
    doubled = [Point(p.size, p.slope, p.strength, 2.0) for p in points[:10]] + points[10:]
    weighted, repeated = law.fit(doubled), law.fit(points[:10] + points)
    assert weighted.constant == pytest.approx(repeated.constant)
    assert weighted.slope_power == pytest.approx(repeated.slope_power)


def test_slopes_outside_the_fit_are_clipped():
    fitted = law.fit(_points())
    assert fitted.strength(4, 1e6) == fitted.strength(4, fitted.greatest_slope)
    assert fitted.strength(4, 1e-9) == fitted.strength(4, fitted.least_slope)


def test_too_few_points_give_no_law():
    assert law.fit(_points(law.LEAST_POINTS - 1)) is None


def test_sets_of_one_size_still_give_a_law():
    points = [Point(4, 0.5 + i, 2.0 / (0.5 + i), 1.0) for i in range(10)]
    assert law.fit(points).strength(4, 3.0) == pytest.approx(2 / 3)


def test_law_survives_storage():
    fitted = law.fit(_points(noise=0.1))
    assert law.from_tensor(fitted.to_tensor()) == fitted
    assert isinstance(fitted, Law)


def test_pseudo_sets_are_of_the_kinds_and_sizes_promised():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (1000,), generator=generator)
    losses = torch.rand(1000, generator=generator)
    sets = law.pseudo_sets(labels, losses, repeats=2, generator=generator)
    sizes = [len(rows) for rows, _ in sets]
    assert sizes == [size for size in (1, 4, 16, 64) for _ in range(8)]
    bounds = losses.sort().values
    for k, (rows, weight) in enumerate(sets):
        assert len(rows.unique()) == len(rows)
        assert weight == (1.5 if k % 4 == 0 else 1.0)
        if k % 4 == 1:
            assert len(labels[rows].unique()) == 1
        if k % 4 == 2:
            assert losses[rows].min() >= bounds[700]
        if k % 4 == 3:
            assert losses[rows].max() < bounds[300]
