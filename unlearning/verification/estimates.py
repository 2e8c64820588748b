"""An estimate over forget and never-seen rows that remembers what each row contributed.

Two estimates on the same rows subtract row by row, so a difference between two models is judged by
its own paired standard error, in which the luck of the drawn rows cancels. For the Mann-Whitney
AUC this is DeLong's method (DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988); for an accuracy
on one set it is McNemar's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from unlearning.verification.scores import Floats

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """``value`` with the centred contribution of every row to it.

    ``forget`` (n_f,) and ``never_seen`` (n_u,) float64 are scaled so that the sum of their squares
    is the sampling variance. ``floor`` is the smallest standard error that the number of rows
    allows: a handful of rows that happen to agree are no certainty. ``bounds`` are the values the
    quantity can take.
    """

    value: float
    forget: Floats
    never_seen: Floats
    floor: float = 0.0
    bounds: Interval = (-np.inf, np.inf)

    @property
    def standard_error(self) -> float:
        """Square root of the sampling variance, at least ``floor``."""
        variance = np.sum(self.forget**2) + np.sum(self.never_seen**2)
        return max(float(np.sqrt(variance)), self.floor)

    def interval(self, confidence: float) -> Interval:
        """Two-sided normal interval, cut to the possible values."""
        reach = NormalDist().inv_cdf(0.5 + confidence / 2) * self.standard_error
        low, high = self.bounds
        return max(low, self.value - reach), min(high, self.value + reach)

    def shifted(self, by: float) -> Estimate:
        """The same estimate, measured from another origin."""
        low, high = self.bounds
        return replace(self, value=self.value + by, bounds=(low + by, high + by))

    def minus(self, other: Estimate, *, share: float = 1.0) -> Estimate:
        """``self - share * other`` for the same rows, with the paired standard error."""
        return Estimate(
            value=self.value - share * other.value,
            forget=self.forget - share * other.forget,
            never_seen=self.never_seen - share * other.never_seen,
        )


def average(estimates: list[Estimate]) -> Estimate:
    """Mean of estimates over the same rows."""
    return Estimate(
        value=float(np.mean([e.value for e in estimates])),
        forget=np.mean([e.forget for e in estimates], axis=0),
        never_seen=np.mean([e.never_seen for e in estimates], axis=0),
        bounds=estimates[0].bounds,
    )


def contributions(values: Floats, weights: Floats | None = None) -> Floats:
    """Centred contributions (n,) of ``values`` (n,) to their mean, weighted when weights are given.

    The sum of squares is the unbiased variance of the mean; with weights summing to one, n is
    replaced by the effective number of rows 1 / sum(w²).
    """
    if len(values) == 0:
        return np.zeros(0)
    w = np.full(len(values), 1 / len(values)) if weights is None else weights
    effective = effective_rows(w)
    if effective <= 1 + 1e-9:
        return np.zeros(len(values))
    scaled = w * (values - np.sum(w * values)) * np.sqrt(effective / (effective - 1))
    return np.asarray(scaled, dtype=np.float64)


def effective_rows(weights: Floats) -> float:
    """1 / sum(w²): how many equally weighted rows tell as much."""
    return float(1 / np.sum(weights**2))
