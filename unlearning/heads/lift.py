"""Fixed random Fourier features of a row: z = √(2/D) [cos(Rx), sin(Rx)] with R from a seed.

Inner products of lifted rows approximate the Gaussian kernel exp(−‖x − x'‖² / (2σ²)) (Rahimi and
Recht, Random Features for Large-Scale Kernel Machines, 2007), so that a ridge regression on them is
not limited to linear boundaries.

R and the rows are on grids, so the projections Rx are exact sums and do not depend on how rows are
batched; z is rounded to the grid afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearning.errors import WrongOptions
from unlearning.heads import grid

#: Grid of R. Its rounding moves a projection by less than the grid of the rows does.
_PROJECTION_BITS = 16


def projection(inputs: int, features: int, *, bandwidth: float, seed: int) -> Tensor:
    """Return R (inputs, features // 2) float64: normal with variance 1/σ², σ the ``bandwidth``."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(inputs, features // 2, generator=generator, dtype=torch.float64)
    return grid.rounded(drawn / bandwidth, _PROJECTION_BITS)


def lifted(q: Tensor, projected_by: Tensor, bits: int) -> Tensor:
    """Return z (m, D) float64 on the grid, of rows ``q`` (m, inputs) on the grid.

    Raise ``WrongOptions`` if a projection of rows this large is not exact.
    """
    largest = q.abs() @ projected_by.abs()
    if len(q) and float(largest.max()) * 2.0 ** (bits + _PROJECTION_BITS) >= grid.EXACT:
        raise WrongOptions(
            "the features are too large to be lifted exactly; scale them down with the model's "
            "transform, or set the architecture's grid_bits lower or its bandwidth higher"
        )
    angles = q @ projected_by
    half = projected_by.shape[1]
    z = torch.cat([angles.cos(), angles.sin()], dim=1) * (1.0 / half) ** 0.5
    return grid.rounded(z, bits)
