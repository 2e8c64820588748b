"""Conditional density of one margin given another, estimated by kernels.

f(φ | m) is an average of kernels around the rows of a sample whose m is nearest (Fan, Yao & Tong,
"Estimation of conditional densities and sensitivity measures in nonlinear dynamical systems",
Biometrika 83, 1996). Each row of the sample is first moved along the local regression line of φ on
m, so that the neighbours need not be close. The kernel is Student's t distribution: rows farther
out than any of the sample get a small density and not none.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from unlearning.verification.statistics.scores import Floats, Integers

#: Rows that a density is averaged over: a third of the sample, within these bounds.
_SHARE, _LEAST, _MOST = 3, 30, 150
_FREEDOM = 3.0
#: Width of a kernel in spreads of the neighbours times their number to the power of −1/5, and the
#: least spread: margins closer than that tell nothing.
_WIDTH, _LEAST_SPREAD = 0.9, 0.3
#: Part of each density that is one wide kernel around the mean: its width in spreads.
_WIDE_PART, _WIDE = 0.02, 2.0
#: Slopes of the regression: a row that is easier for others is no harder here.
_LEAST_SLOPE, _MOST_SLOPE = 0.0, 1.5
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
_SEED = 20_260_703


def nearest(values: Floats, sample: Floats, count: int) -> Integers:
    """Return the positions (n, count) of the rows of ``sample`` (m,) around each value (n,).

    They are consecutive in the order of the sample, as many below as above where there are. A value
    that the sample has too has a place drawn among its equals, as if it were one of them.
    """
    order = np.argsort(sample, kind="stable")
    first_equal, after = (np.searchsorted(sample[order], values, side) for side in _SIDES)
    above = np.random.default_rng(_SEED).integers(first_equal, after + 1)
    first = np.clip(above - count // 2, 0, len(sample) - count)
    return np.asarray(order[first[:, None] + np.arange(count)], dtype=np.int64)


def slopes(x: Floats, y: Floats, weights: Floats | None = None) -> Floats:
    """Return the slope of the least-squares line of ``y`` on ``x``, both (n, k), of each line."""
    w = np.full(x.shape, 1 / x.shape[1]) if weights is None else weights
    centred = x - (w * x).sum(1, keepdims=True)
    spread = (w * centred**2).sum(1)
    return np.asarray((w * centred * y).sum(1) / np.maximum(spread, 1e-9))


def log_density(own: Floats, outside: Floats, sample: tuple[Floats, Floats]) -> Floats:
    """Return log f(``own`` | ``outside``), (n,), by a sample's margins of both kinds, (m,) each."""
    theirs, at = sample
    count = min(len(at), max(_LEAST, min(_MOST, len(at) // _SHARE)))
    near = nearest(outside, at, count)
    apart = outside[:, None] - at[near]
    reach = np.abs(apart).max(1, keepdims=True) * 1.001 + 1e-9
    weights = (1 - (np.abs(apart) / reach) ** 3) ** 3
    weights /= weights.sum(1, keepdims=True)
    slope = np.clip(slopes(at[near], theirs[near], weights), _LEAST_SLOPE, _MOST_SLOPE)
    moved = theirs[near] + slope[:, None] * apart
    mean = (weights * moved).sum(1)
    variance = (weights * (moved - mean[:, None]) ** 2).sum(1)
    spread = np.sqrt(variance) + _LEAST_SPREAD
    width = _WIDTH * spread * (weights**2).sum(1) ** 0.2
    each = _t((own[:, None] - moved) / width[:, None]) / width[:, None]
    wide = _t((own - mean) / (_WIDE * spread)) / (_WIDE * spread)
    return np.asarray(np.log((1 - _WIDE_PART) * (weights * each).sum(1) + _WIDE_PART * wide))


def _t(z: Floats) -> Floats:
    """Return the density of Student's t distribution."""
    half = (_FREEDOM + 1) / 2
    size = math.gamma(half) / (math.gamma(_FREEDOM / 2) * math.sqrt(_FREEDOM * math.pi))
    return np.asarray(size * (1 + z**2 / _FREEDOM) ** -half)
