"""The logistic objective against its definition, and the search against a plain Newton method."""

import gc
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unlearning.errors import WrongOptions
from unlearning.heads import linear, logistic, multinomial, quasi_newton
from unlearning.heads.multinomial import Problem

PENALTY = 0.5


def _rows(count=60, features=4, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(count, features, generator=generator, dtype=torch.float64)
    q[:, -1] = 1
    return q, torch.randint(0, classes, (count,), generator=generator)


def _problem(q, y, classes=3, penalty=PENALTY, batch=7):
    counts = y.bincount(minlength=classes)
    return Problem(
        lambda: zip(q.split(batch), y.split(batch), strict=True), linear.offset(counts), penalty
    )


def _value(q, y, weights, penalty=PENALTY):
    scores = q @ weights
    label = scores.gather(1, y[:, None])[:, 0]
    return (scores.logsumexp(1) - label).sum() + penalty / 2 * weights.square().sum()


def _longdouble_slope(q, y, weights, penalty=PENALTY):
    q, weights = q.numpy().astype(np.longdouble), weights.numpy().astype(np.longdouble)
    scores = q @ weights
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y.numpy()] -= 1
    return q.T @ p + np.longdouble(penalty) * weights


def test_slope_and_hessian_are_the_derivatives_of_the_objective():
    q, y = _rows()
    problem = _problem(q, y)
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    free = weights.clone().requires_grad_()
    (slope,) = torch.autograd.grad(_value(q, y, free), free)
    torch.testing.assert_close(multinomial.slope(problem, weights).gradient, slope)
    hessian = torch.autograd.functional.hessian(
        lambda columns: _value(q, y, columns.view(3, 4).T), weights.T.reshape(-1)
    )
    factor = multinomial.factor(problem, weights).double()
    torch.testing.assert_close(factor @ factor.T, hessian, rtol=1e-5, atol=1e-5)


@pytest.mark.seconds
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux")
def test_factor_needs_no_more_memory_than_it_states():
    """Two matrices of float64 at once; a third one, of float32, would come to 20 bytes or more."""
    features, classes = 200, 16  # so large that what else is allocated counts little
    q, y = torch.randn(50, features).double(), torch.randint(classes, (50,))
    problem = _problem(q, y, classes=classes)
    weights = torch.zeros(features, classes).double()
    multinomial.factor(problem, weights)  # what the first call loads stays
    status, before = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    before.write_text("5")  # the peak begins anew (proc(5))
    resting = _kilobytes(status, "VmRSS")
    multinomial.factor(problem, weights)
    peak = 1024 * (_kilobytes(status, "VmHWM") - resting)
    assert 8 < peak / (features * classes) ** 2 < 18


def _kilobytes(status, name):
    return int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1])


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_rounding_of_the_slope_is_within_its_bound(scale):
    q, y = _rows(count=500, features=20)
    q[:, :-1] *= scale
    weights = 3 * torch.randn(20, 3, generator=torch.Generator().manual_seed(2)).double()
    found = multinomial.slope(_problem(q, y), weights)
    off = np.linalg.norm(found.gradient.numpy() - _longdouble_slope(q, y, weights))
    assert 0 < off <= found.rounding
    # A bound that is far too large would prove nothing.
    assert found.rounding < 1e-9 * np.linalg.norm(found.gradient)


@pytest.mark.seconds
@pytest.mark.parametrize("most_factored", [logistic.MOST_FACTORED, 0])
def test_minimum_is_that_of_newtons_method_in_higher_precision(monkeypatch, most_factored):
    monkeypatch.setattr(logistic, "MOST_FACTORED", most_factored)
    q, y = _rows(count=300, features=6)
    problem = _problem(q, y)
    found, factor = logistic.fitted(problem, q.T @ q)
    assert (factor is None) == (most_factored == 0)
    minimum = torch.zeros(6, 3, dtype=torch.float64)
    for _ in range(30):
        hessian = torch.autograd.functional.hessian(
            lambda columns: _value(q, y, columns.view(3, 6).T), minimum.T.reshape(-1)
        )
        slope = torch.from_numpy(_longdouble_slope(q, y, minimum).astype(np.float64))
        minimum = minimum - torch.linalg.solve(hessian, slope.T.reshape(-1)).view(3, 6).T
    bound = multinomial.distance_bound(found.slope.norm, found.slope.rounding, PENALTY)
    assert float((found.weights - minimum).norm()) <= bound < 1e-9


def test_class_without_rows_has_no_weights():
    q, y = _rows()
    y[y == 1] = 2
    found, factor = logistic.fitted(_problem(q, y), q.T @ q)
    assert not found.weights[:, 1].any()
    again = logistic.minimum(
        _problem(q, y), torch.zeros(4, 3).double(), logistic.by_factor(factor, _problem(q, y))
    )
    torch.testing.assert_close(again.weights, found.weights, rtol=0, atol=1e-9)


def test_search_that_needs_more_passes_than_allowed_is_refused():
    q, y = _rows()
    problem = _problem(q, y)
    with pytest.raises(WrongOptions, match="within 3 passes"):
        quasi_newton.minimise(
            lambda weights: multinomial.slope(problem, weights),
            torch.zeros(4, 3).double(),
            inverse=lambda slope: slope,
            reached=lambda here: here.norm < 1e-9,
            most_passes=3,
        )


@pytest.mark.seconds
def test_search_with_steps_far_too_long_or_short_still_ends_at_the_minimum():
    q, y = _rows()
    problem = _problem(q, y)
    best, _ = logistic.fitted(problem, q.T @ q)
    for factor in (1e3, 1e-6):
        found = logistic.minimum(
            problem, torch.zeros(4, 3).double(), lambda slope, by=factor: by * slope
        )
        torch.testing.assert_close(found.weights, best.weights, rtol=0, atol=1e-9)
