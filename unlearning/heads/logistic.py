"""The logistic head: the minimum of a multinomial logistic regression with an L2 penalty.

The minimum is unique (``unlearning.heads.multinomial``). It is found to rounding, and how far the
weights may be from it is bounded, by the slope there alone. λ is in the sum form and does not grow
with the number of rows; the bias is penalised like the other weights. λ is chosen once, on
validation rows, and kept: the weights after a deletion are those of a fit on the other rows *with
the same λ*, up to the two bounds.

A Cholesky factor of the Hessian makes the search short: 5 to 20 passes over the rows in place of
100 to 300. It is kept up to ``MOST_FACTORED`` weights. Without it the search uses the upper bound
½(I − 11ᵀ/K) ⊗ Σ q qᵀ + λI of the Hessian (Böhning, Multinomial logistic regression algorithm,
1992), and a deletion takes about as many passes as a fit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unlearning.errors import WrongOptions
from unlearning.heads import multinomial, quasi_newton
from unlearning.heads.linear import LinearHead
from unlearning.heads.multinomial import Problem, Slope
from unlearning.heads.quasi_newton import Found

#: The λ to choose from, ascending.
LADDER = (1e-2, 1e-1, 1.0, 10.0)
#: Classes times features, up to which the Hessian's factor is kept: 4 bytes for each pair of them.
MOST_FACTORED = 8_000
#: A minimum is found when the slope's norm is at most this,
_SMALLEST = 1e-10
#: or this part of its rounding, below which the bound on the distance hardly falls.
_OF_ROUNDING = 1e-3
#: Share of the slope at 0 that is left where λ is compared, or the factor is computed.
_ROUGH = 1e-4
_MOST_PASSES = 3_000

Inverse = Callable[[Tensor], Tensor]


class LogisticHead(LinearHead):
    """A head whose scores are those of a multinomial logistic regression; temperature 1."""


def fitted(
    problem: Problem, gram: Tensor, progress: Callable[[float], None] = lambda _fraction: None
) -> tuple[Found[Slope], Tensor | None]:
    """Return the minimum, searched from 0, and the Hessian's factor near it.

    ``gram`` (d, d) is Σ q qᵀ. None for the factor if there are more than ``MOST_FACTORED`` weights.
    """
    start = gram.new_zeros(len(gram), len(problem.offset))
    inverse = by_bound(gram, problem)
    if start.numel() > MOST_FACTORED:
        return minimum(problem, start, inverse, progress), None
    rough = roughly(problem, start, inverse)
    factor = multinomial.factor(problem, rough.weights)
    return minimum(problem, rough.weights, by_factor(factor, problem), progress), factor


def minimum(
    problem: Problem,
    start: Tensor,
    inverse: Inverse,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> Found[Slope]:
    """Return the minimum, searched from ``start`` (d, classes).

    Raise ``WrongOptions`` if it is not found.
    """
    return quasi_newton.minimise(
        lambda weights: multinomial.slope(problem, weights),
        start,
        inverse=inverse,
        reached=lambda here: here.norm <= max(_SMALLEST, _OF_ROUNDING * here.rounding),
        most_passes=_MOST_PASSES,
        progress=progress,
    )


def is_of_a_minimum(here: Slope) -> bool:
    """Return whether ``minimum`` may have ended at this slope, which is computed once more.

    On another machine it may come out elsewhere within its rounding, as it did in the search.
    """
    return here.norm <= _SMALLEST + (2 + _OF_ROUNDING) * here.rounding


def roughly(problem: Problem, start: Tensor, inverse: Inverse) -> Found[Slope]:
    """Return weights near the minimum, at which most of the slope at 0 is gone."""
    at_zero = multinomial.slope(problem, torch.zeros_like(start)).norm
    return quasi_newton.minimise(
        lambda weights: multinomial.slope(problem, weights),
        start,
        inverse=inverse,
        reached=lambda here: here.norm <= max(_ROUGH * at_zero, _SMALLEST),
        most_passes=_MOST_PASSES,
    )


def chosen_penalty(
    problem: Callable[[float], Problem], gram: Tensor, q: Tensor, y: Tensor
) -> float:
    """Return the λ of ``LADDER`` with the best accuracy on rows ``q`` (m, d), ``y`` (m,).

    ``problem`` returns the problem of a λ. Ties go to the larger λ.
    """
    weights: Tensor | None = None
    right: dict[float, int] = {}
    for one in reversed(LADDER):
        posed = problem(one)
        start = gram.new_zeros(len(gram), len(posed.offset)) if weights is None else weights
        weights = roughly(posed, start, by_bound(gram, posed)).weights
        right[one] = int(((q @ weights + posed.offset).argmax(1) == y).sum())
    return max(right, key=right.__getitem__)


def by_bound(gram: Tensor, problem: Problem) -> Inverse:
    """Return the inverse of ½(I − 11ᵀ/K) ⊗ ``gram`` + λI over the K classes that have rows."""
    half = 0.5 * gram
    half.diagonal().add_(problem.penalty)
    factor, failed = torch.linalg.cholesky_ex(half)
    if int(failed):
        raise WrongOptions(
            f"a penalty of {problem.penalty:g} is too small for features of this size; set the "
            "architecture's penalty higher, or scale the features with the model's transform"
        )
    present = problem.present

    def inverse(slope: Tensor) -> Tensor:
        found = torch.zeros_like(slope)
        here = slope[:, present]
        mean = here.mean(1, keepdim=True)
        found[:, present] = torch.cholesky_solve(here - mean, factor) + mean / problem.penalty
        return found

    return inverse


def by_factor(factor: Tensor, problem: Problem) -> Inverse:
    """Return the product with (L Lᵀ)⁻¹, L (p, p) as ``multinomial.factor`` returns it."""
    absent = ~problem.present

    def inverse(slope: Tensor) -> Tensor:
        size = slope.norm()
        flat = (slope / size).T.reshape(-1, 1).to(factor.dtype)
        solved: Tensor = torch.cholesky_solve(flat, factor)
        found: Tensor = size * solved.view(slope.T.shape).T.to(slope.dtype)
        found[:, absent] = 0
        return found

    return inverse
