"""Numbers on a grid of step 2^-bits, whose products and sums are exact in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearning.errors import WrongOptions

#: Whole numbers below this are exact in float64, and so is every sum of them below it.
EXACT = 2.0**53


def rounded(x: Tensor, bits: int) -> Tensor:
    """Return round(x · 2^bits) / 2^bits, float64, halves to even; ``x`` of any shape and dtype."""
    return torch.round(x.double() * 2.0**bits) / 2.0**bits


def require_finite(x: Tensor) -> None:
    """Raise ``WrongOptions`` if a feature is infinite or NaN."""
    if not bool(torch.isfinite(x).all()):
        raise WrongOptions(
            "a feature is not finite after the model's transform; correct the rows and add the "
            "dataset again, or change the transform"
        )


def is_on(x: Tensor, bits: int) -> bool:
    """Return whether every number of ``x``, float64, is on the grid."""
    steps = x * 2.0**bits
    return bool((steps == steps.round()).all())
