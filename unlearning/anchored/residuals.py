"""Conjugate residuals: solve a symmetric positive definite system by products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """x ≈ A⁻¹b (n,) and the iterations it took."""

    x: Tensor
    iterations: int


def conjugate(
    product: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float, iterations: int
) -> Solution:
    """Solve A·x = b (n,) float64 for symmetric positive definite A, given as a product.

    Stops at ‖b − Ax‖ ≤ ``tolerance``·‖b‖. The residual falls with each iteration, so that the limit
    of iterations leaves a step that misses its targets by less than none at all. (Conjugate
    gradients lower the error of x instead; stopped early, their residual may be larger than b.)

    Source: Stiefel (1955), Relaxationsmethoden bester Strategie zur Lösung linearer
    Gleichungssysteme; Saad, Iterative Methods for Sparse Linear Systems, 2nd edition, 6.8.
    """
    x, r = torch.zeros_like(b), b.clone()
    enough, done = tolerance * float(b.norm()), 0
    if not float(r.norm()) > enough:
        return Solution(x, done)
    image = product(r)
    direction, moved, curved = r.clone(), image.clone(), float(r @ image)
    while done < iterations and curved > 0:
        length = curved / float(moved @ moved)
        x += length * direction
        r -= length * moved
        done += 1
        if done == iterations or float(r.norm()) <= enough:
            break
        image = product(r)
        before, curved = curved, float(r @ image)
        direction = r + (curved / before) * direction
        moved = image + (curved / before) * moved
    return Solution(x, done)
