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
from torch import Tensor, nn
from torch.nn import functional

from unlearning.errors import WrongOptions
from unlearning.heads import grid, lift
from unlearning.heads.statistics import Statistics

#: The λ to choose from, ascending.
LADDER = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Logit of a class without training rows: its probability is 0.
ABSENT = -1e4
#: Bounds of the temperature, and halvings of the interval of its logarithm.
_COLDEST, _HOTTEST, _HALVINGS = 1e-3, 1e2, 50


class RidgeHead(nn.Module):
    """Logits (n, classes) float64 of rows (n, ...), which are flattened.

    ``weight`` (classes, d) float64 with the bias last; ``offset`` (classes,) is ``ABSENT`` for
    classes without training rows, else 0; ``temperature`` and ``penalty`` (1,) float64. A penalty
    of 0 means that the head is not fitted yet. ``statistics`` is None except just after a fit: it
    is no part of the state dict, so it cannot be exported with the weights.
    """

    offset: Tensor
    temperature: Tensor
    penalty: Tensor

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        bits: int,
        penalty: float | None = None,
        lifted_to: int = 0,
        bandwidth: float = 1.0,
        lift_seed: int = 0,
    ) -> None:
        super().__init__()
        self.inputs, self.classes, self.bits = inputs, classes, bits
        self.given_penalty = penalty
        self.lifted_to, self.bandwidth, self.lift_seed = lifted_to, bandwidth, lift_seed
        self.width = (lifted_to or inputs) + 1
        self.weight = nn.Parameter(torch.zeros(classes, self.width, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("temperature", torch.ones(1, dtype=torch.float64))
        self.register_buffer("penalty", torch.zeros(1, dtype=torch.float64))
        self.statistics: Statistics | None = None
        self._projection: Tensor | None = None

    def features(self, x: Tensor) -> Tensor:
        """Return q (n, d) float64 on the grid, bias last, of rows ``x`` (n, ...).

        Raise ``WrongOptions`` if a row has another size, or a feature is not finite.
        """
        flat = x.flatten(1)
        if flat.shape[1] != self.inputs:
            raise WrongOptions(f"the head takes {self.inputs} features, not {flat.shape[1]}")
        grid.require_finite(flat)
        q = grid.rounded(flat, self.bits)
        if self.lifted_to:
            q = lift.lifted(q, self._projected_by(q.device), self.bits)
        return torch.cat([q, q.new_ones(len(q), 1)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) float64 of ``x`` (n, ...)."""
        scores = functional.linear(self.features(x), self.weight)
        return scores / self.temperature + self.offset

    @torch.no_grad()
    def set(self, weights: Tensor, counts: Tensor, *, penalty: float) -> None:
        """Take solved weights (d, classes) and the classes' numbers of rows (classes,)."""
        self.weight.copy_(weights.T)
        self.offset.copy_(torch.where(counts > 0, 0.0, ABSENT))
        self.penalty.fill_(penalty)

    def _projected_by(self, device: torch.device) -> Tensor:
        if self._projection is None or self._projection.device != device:
            with torch.device("cpu"):
                made = lift.projection(
                    self.inputs, self.lifted_to, bandwidth=self.bandwidth, seed=self.lift_seed
                )
            self._projection = made.to(device)
        return self._projection


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
