"""The ridge head: W = (G + λI)⁻¹B by Cholesky, from the statistics of the training rows.

Σ ‖Wᵀq − e_y‖² + λ‖W‖² is minimal at W (d, classes). λ is in the sum form and does not grow with the
number of rows; the bias is penalised like the other weights. Logits are Wᵀq divided by a
*temperature*, so that their softmax is a usable probability.

λ and the temperature are chosen once, on validation rows, and kept with the weights: taking a row
out later changes neither. So the weights after a deletion equal those of a fit on the other rows
*with the same choices*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.errors import WrongOptions
from unlearning.heads.linear import LinearHead
from unlearning.heads.statistics import Statistics

#: The λ to choose from, ascending.
LADDER = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Bounds of the temperature, and halvings of the interval of its logarithm.
_COLDEST, _HOTTEST, _HALVINGS = 1e-3, 1e2, 50


class RidgeHead(LinearHead):
    """A head whose scores are those of a ridge regression on the classes' indicators."""


def solve(statistics: Statistics, penalty: float) -> Tensor:
    """Return W (d, classes) float64 for λ = ``penalty``.

    On one thread, so that the same statistics give the same bits whatever the process uses. Raise
    ``WrongOptions`` if the penalty is too small for features that depend on each other.
    """
    penalised = _penalised(statistics, penalty)
    with _one_thread():
        factor, failed = torch.linalg.cholesky_ex(penalised)
        found = torch.cholesky_solve(statistics.moments, factor)
    if int(failed) or not bool(torch.isfinite(found).all()):
        raise WrongOptions(
            f"a penalty of {penalty:g} is too small for these rows, whose features depend on each "
            "other; set the architecture's penalty higher, or leave it out to have it chosen"
        )
    return found


def residual(statistics: Statistics, weights: Tensor, penalty: float) -> float:
    """Return ‖(G + λI)W − B‖ / ‖B‖, Frobenius, of ``weights`` W (d, classes)."""
    off = _penalised(statistics, penalty) @ weights - statistics.moments
    return float(off.norm() / statistics.moments.norm().clamp(min=torch.finfo(torch.float64).tiny))


def chosen_penalty(statistics: Statistics, q: Tensor, y: Tensor) -> float:
    """Return the λ of ``LADDER`` with the best accuracy on rows ``q`` (m, d), ``y`` (m,).

    Ties go to the larger λ. Those that are too small for the training rows are left out; raise
    ``WrongOptions`` if all of them are.
    """
    right: dict[float, int] = {}
    for one in reversed(LADDER):
        try:
            weights = solve(statistics, one)
        except WrongOptions:
            if not right:
                raise
            break  # a smaller λ is too small as well
        right[one] = int(((q @ weights).argmax(1) == y).sum())
    return max(right, key=right.__getitem__)


def chosen_temperature(scores: Tensor, y: Tensor) -> float:
    """Return the temperature at which softmax(scores / T) is likeliest, by bisection.

    ``scores`` (m, classes) float64, ``y`` (m,) int64. The mean loss is convex in 1/T, so that the
    sign of its slope says on which side of the minimum a temperature lies.
    """
    label = scores.gather(1, y[:, None])[:, 0]
    low, high = _COLDEST, _HOTTEST
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        expected = (functional.softmax(scores / middle, dim=1) * scores).sum(1)
        # d(mean loss)/d(1/T): positive if 1/T is too large, which is T too small.
        if float((expected - label).sum()) > 0:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def _penalised(statistics: Statistics, penalty: float) -> Tensor:
    if penalty <= 0:
        raise WrongOptions("the penalty of a ridge head must be above 0; fit the head first")
    made = statistics.gram.clone()
    made.diagonal().add_(penalty)
    return made


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
