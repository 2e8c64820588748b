"""A linear classifier on fixed features, whose weights are solved for instead of trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.errors import WrongOptions
from unlearning.heads import grid, lift

#: Logit of a class without training rows: its probability is 0.
ABSENT = -1e4


class LinearHead(nn.Module):
    """Logits (n, classes) float64 of rows (n, ...), which are flattened.

    ``weight`` (classes, d) float64 with the bias last; ``offset`` (classes,) is ``ABSENT`` for
    classes without training rows, else 0; ``temperature`` and ``penalty`` (1,) float64. A penalty
    of 0 means that the head is not fitted yet.
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
        self.offset.copy_(offset(counts))
        self.penalty.fill_(penalty)

    def _projected_by(self, device: torch.device) -> Tensor:
        if self._projection is None or self._projection.device != device:
            with torch.device("cpu"):
                made = lift.projection(
                    self.inputs, self.lifted_to, bandwidth=self.bandwidth, seed=self.lift_seed
                )
            self._projection = made.to(device)
        return self._projection


def offset(counts: Tensor) -> Tensor:
    """Return what is added to logits, (classes,) float64, for classes with ``counts`` rows."""
    return torch.where(counts > 0, 0.0, ABSENT).double()
