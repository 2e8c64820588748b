"""The objective of a multinomial logistic regression, with a bound on the rounding of its slope.

    F(W) = Σ_i [lse(Wᵀq_i + o) − (Wᵀq_i + o)_{y_i}] + λ/2 ‖W‖²

for W (d, classes), features q_i (d,) with the constant 1 last, and o (classes,) 0 for classes that
have rows and far below 0 for the others. F is λ-strongly convex, so its minimum W* is unique and
‖W − W*‖ ≤ ‖∇F(W)‖ / λ (Nesterov, Introductory Lectures on Convex Optimization, 2004, 2.1.19).

Everything is in float64. The slope that is computed differs from ∇F(W) by at most ``rounding``,
which is a priori (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 3.1) and holds for
any order of the sums: γ_k = k u / (1 − k u) with u = 2^-53.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

#: Features q (m, d) float64 and labels y (m,) int64 of a batch of rows.
Batch = tuple[Tensor, Tensor]
#: Half of the distance from 1 to the next float64.
_UNIT = 2.0**-53
#: Roundings of a probability besides those of its logits and of the sum over classes: the
#: difference to the largest logit, the exponential, the division, the indicator.
_OF_A_PROBABILITY = 10
#: Room for products of two roundings, which the bound leaves out.
_SECOND_ORDER = 1.01


@dataclass(frozen=True)
class Problem:
    """Rows, which ``batches`` reads once per call, and what does not depend on them.

    ``offset`` (classes,) float64 is o, ``penalty`` is λ.
    """

    batches: Callable[[], Iterator[Batch]]
    offset: Tensor
    penalty: float

    @property
    def present(self) -> Tensor:
        """Return which classes have rows, (classes,) bool."""
        return self.offset == 0


@dataclass(frozen=True)
class Slope:
    """∇F as computed, (d, classes) float64; it is within ``rounding`` of ∇F in Frobenius norm."""

    gradient: Tensor
    rounding: float

    @property
    def norm(self) -> float:
        """Return the Frobenius norm of what was computed."""
        return float(self.gradient.norm())


def slope(problem: Problem, weights: Tensor) -> Slope:
    """Return the slope at ``weights`` (d, classes); one pass over the rows."""
    features, classes = weights.shape
    gradient = problem.penalty * weights
    largest = float(weights.norm(dim=0).max())
    of_logits = _gamma(features) * largest
    of_softmax = (classes + _OF_A_PROBABILITY) * _UNIT
    from_residuals = magnitude = 0.0
    longest = batches = 0
    for q, y in problem.batches():
        residuals = functional.softmax(q @ weights + problem.offset, dim=1)
        residuals[torch.arange(len(y)), y] -= 1.0
        gradient = gradient + q.T @ residuals
        lengths = q.norm(dim=1)
        # In Euclidean norm a softmax moves by no more than the logit that moves most.
        off = lengths * of_logits + of_softmax
        from_residuals += float((lengths * off).sum())
        magnitude += float((lengths * (residuals.norm(dim=1) + off)).sum())
        longest, batches = max(longest, len(y)), batches + 1
    summed = magnitude + problem.penalty * float(weights.norm())
    rounding = from_residuals + _gamma(longest + batches + 2) * summed
    return Slope(gradient, _SECOND_ORDER * rounding)


def distance_bound(norm: float, rounding: float, penalty: float) -> float:
    """Return a bound on ‖W − W*‖: (‖∇F‖ as computed + its rounding) / λ."""
    return (norm + rounding) / penalty


def factor(problem: Problem, weights: Tensor) -> Tensor:
    """Return L (p, p) float32, lower, p = classes · d: ∇²F(``weights``) = L Lᵀ up to float32.

    Rows and columns are ordered by class, then by feature. One pass over the rows, which costs
    about p² operations a row; p² · 16 bytes of memory at its peak, p² · 4 of which stay. L only
    speeds up the search for the minimum, so float32 is enough.
    """
    features, classes = weights.shape
    hessian = torch.zeros(classes, features, classes, features, dtype=torch.float64)
    present = problem.present.nonzero()[:, 0].tolist()
    for q, _ in problem.batches():
        p = functional.softmax(q @ weights + problem.offset, dim=1).float()
        narrow = q.float()
        for place, a in enumerate(present):
            for b in present[: place + 1]:
                second = p[:, a] * (float(a == b) - p[:, b])
                hessian[a, :, b] += narrow.T @ (narrow * second[:, None])
    square = hessian.view(classes * features, -1)
    square.diagonal().add_(problem.penalty)
    found, failed = torch.linalg.cholesky_ex(square)
    while int(failed):
        # The products in float32 were too coarse for so small a penalty.
        square.diagonal().mul_(1 + 1e-5)
        found, failed = torch.linalg.cholesky_ex(square)
    del hessian, square  # before another copy is made
    narrowed: Tensor = found.float().contiguous()
    return narrowed


def _gamma(roundings: int) -> float:
    """Return γ_k, by which a sum of k products can be off, relative to the sum of their sizes."""
    if roundings * _UNIT >= 1:
        return math.inf
    return roundings * _UNIT / (1 - roundings * _UNIT)
