"""A law for the strength of a step when forgotten rows are no longer available to search on.

log η = a + b·log|F| + c·log s, with s = g_f·δ the slope of the mean forget loss along the step. It
is fitted when a version is published, on pseudo-forget sets of training rows, for which the exact
search is still possible. A law in |F| alone is wrong by factors on sets that are all easy, all hard
or of one class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Fewer points do not determine three coefficients.
LEAST_POINTS = 8


@dataclass(frozen=True)
class Point:
    """One pseudo-forget set: its size |F|, slope s, searched strength η, and weight in the fit."""

    size: int
    slope: float
    strength: float
    weight: float


@dataclass(frozen=True)
class Law:
    """The coefficients, the range of slopes that they were fitted on, and the fit's error."""

    constant: float
    size_power: float
    slope_power: float
    least_slope: float
    greatest_slope: float
    #: Root mean square of the residuals of log η.
    residual: float

    def strength(self, size: int, slope: float) -> float:
        """Return η for ``size`` forgotten rows; the slope is clipped to the range of the fit."""
        slope = min(max(slope, self.least_slope), self.greatest_slope)
        return math.exp(
            self.constant + self.size_power * math.log(size) + self.slope_power * math.log(slope)
        )

    def to_tensor(self) -> Tensor:
        """Return one tensor (6,) float64; :func:`from_tensor` reads it."""
        return torch.tensor(
            [
                self.constant,
                self.size_power,
                self.slope_power,
                self.least_slope,
                self.greatest_slope,
                self.residual,
            ],
            dtype=torch.float64,
        )


def from_tensor(tensor: Tensor) -> Law:
    """Return the law that :meth:`Law.to_tensor` wrote."""
    return Law(*tensor.tolist())


def fit(points: Sequence[Point]) -> Law | None:
    """Fit the law to the points by weighted least squares; None when there are too few."""
    if len(points) < LEAST_POINTS:
        return None
    slopes = [p.slope for p in points]
    features = torch.tensor(
        [[1.0, math.log(p.size), math.log(p.slope)] for p in points], dtype=torch.float64
    )
    strengths = torch.tensor([math.log(p.strength) for p in points], dtype=torch.float64)
    roots = torch.tensor([math.sqrt(p.weight) for p in points], dtype=torch.float64)
    # gelsd gives the smallest solution if all sets have the same size.
    solution = torch.linalg.lstsq(
        features * roots[:, None], (strengths * roots)[:, None], driver="gelsd"
    ).solution[:, 0]
    residual = float((features @ solution - strengths).square().mean().sqrt())
    constant, size_power, slope_power = solution.tolist()
    return Law(constant, size_power, slope_power, min(slopes), max(slopes), residual)


def pseudo_sets(
    labels: Tensor,
    losses: Tensor,
    *,
    repeats: int,
    generator: torch.Generator,
) -> list[tuple[Tensor, float]]:
    """Return row positions (m,) int64 and the weight of each pseudo-forget set.

    Sizes 1, 4, 16, 64 and 256 (up to a tenth of the rows), each at random, of one class, of the
    hardest 30 % and of the easiest 30 %, ``repeats`` times. Random sets resemble most batches and
    have the weight 1.5.
    """
    count = len(labels)
    order = losses.cpu().argsort()
    third = max(1, int(0.3 * count))
    sets = []
    for size in (s for s in (1, 4, 16, 64, 256) if s <= max(1, count // 10)):
        for _ in range(repeats):
            label = labels[int(torch.randint(count, (), generator=generator))]
            pools = (
                (torch.arange(count), 1.5),
                ((labels == label).nonzero()[:, 0], 1.0),
                (order[-third:], 1.0),
                (order[:third], 1.0),
            )
            sets += [
                (pool[torch.randperm(len(pool), generator=generator)[:size]], weight)
                for pool, weight in pools
            ]
    return sets
