"""Estimates over forget and never-seen rows that keep the contribution of each row.

Two estimates on the same rows are subtracted row by row, so a difference between two models has a
paired standard error, in which the sampling of the rows cancels. For the Mann-Whitney AUC this is
DeLong's method (DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988); for an accuracy on one set
it is McNemar's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from unlearning.verification.statistics.scores import Floats, Integers

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """``value`` with the centred contribution of every row to it.

    ``forget`` (n_f,) and ``never_seen`` (n_u,) float64 are scaled so that the sum of their squares
    is the sampling variance. ``floor`` is the smallest standard error that the number of rows
    allows: a few rows that agree are not certainty. ``paired_floor`` is that of a difference
    between two models on these rows. ``bounds`` are the values the quantity can take.
    """

    value: float
    forget: Floats
    never_seen: Floats
    floor: float = 0.0
    paired_floor: float = 0.0
    bounds: Interval = (-np.inf, np.inf)

    @property
    def standard_error(self) -> float:
        """Return the square root of the sampling variance, at least ``floor``."""
        variance = np.sum(self.forget**2) + np.sum(self.never_seen**2)
        return max(float(np.sqrt(variance)), self.floor)

    def interval(self, confidence: float) -> Interval:
        """Return the two-sided normal interval, clipped to the possible values."""
        reach = NormalDist().inv_cdf(0.5 + confidence / 2) * self.standard_error
        low, high = self.bounds
        return max(low, self.value - reach), min(high, self.value + reach)

    def shifted(self, by: float) -> Estimate:
        """Return the same estimate, measured from another origin."""
        low, high = self.bounds
        return replace(self, value=self.value + by, bounds=(low + by, high + by))

    def minus(self, other: Estimate, *, share: float = 1.0) -> Estimate:
        """Return ``self - share * other`` for the same rows, with the paired standard error."""
        floor = max(self.paired_floor, share * other.paired_floor)
        return Estimate(
            value=self.value - share * other.value,
            forget=self.forget - share * other.forget,
            never_seen=self.never_seen - share * other.never_seen,
            floor=floor,
            paired_floor=floor,
        )


def average(estimates: list[Estimate]) -> Estimate:
    """Return the mean of estimates over the same rows.

    More models do not add rows, so floors stay.
    """
    return Estimate(
        value=float(np.mean([e.value for e in estimates])),
        forget=np.mean([e.forget for e in estimates], axis=0),
        never_seen=np.mean([e.never_seen for e in estimates], axis=0),
        floor=float(np.mean([e.floor for e in estimates])),
        paired_floor=float(np.mean([e.paired_floor for e in estimates])),
        bounds=estimates[0].bounds,
    )


def exactly(value: float, *, bounds: Interval = (-np.inf, np.inf)) -> Estimate:
    """Return an estimate that is known by definition, without error."""
    return Estimate(value, np.zeros(0), np.zeros(0), bounds=bounds)


def contributions(
    values: Floats, weights: Floats | None = None, groups: Integers | None = None
) -> Floats:
    """Return the centred contributions (n,) of ``values`` (n,) to their mean, weighted if asked.

    The sum of squares is the unbiased variance of the mean; with weights summing to one, n is
    replaced by the effective number of rows 1 / sum(w²).

    With ``groups`` (n,) every row is centred on its own group, sum_g W_g² s_g² / n_g: the variance
    of a stratified mean (Cochran, Sampling Techniques, 1977, section 5.3). It applies if the shares
    W_g of the groups are given and not drawn, as those of the classes are when never-seen rows are
    matched to the forget rows: differences between classes are then no noise. Rows of one group
    have equal weights. See ``strata`` for groups of one row.
    """
    if len(values) == 0:
        return np.zeros(0)
    w = np.full(len(values), 1 / len(values)) if weights is None else weights
    if groups is not None:
        return _within(values, w, strata(groups))
    effective = effective_rows(w)
    if effective <= 1 + 1e-9:
        return np.zeros(len(values))
    scaled = w * (values - np.sum(w * values)) * np.sqrt(effective / (effective - 1))
    return np.asarray(scaled, dtype=np.float64)


def strata(groups: Integers) -> Integers:
    """Return groups (n,) numbered from zero; those of one row are joined with others.

    A group of one shows no variance of its own, so all such groups are joined, and a single one
    joins the smallest other group (collapsed strata: Cochran, section 5A.12). Differences between
    the joined classes then count as noise, which makes the interval wider.
    """
    _, number, count = np.unique(groups, return_inverse=True, return_counts=True)
    alone = np.flatnonzero(count == 1)
    if len(alone) == 0 or len(count) == 1:
        return number
    host = alone[0] if len(alone) > 1 else np.argmin(np.where(count == 1, len(groups), count))
    return np.where(count[number] == 1, host, number)


def group_variance(values: Floats, groups: Integers) -> Floats:
    """Return the unbiased variance of ``values`` in the group of each row (n,); NaN for one row."""
    count = np.bincount(groups)
    deviation = values - _group_means(values, groups)
    squares = np.bincount(groups, deviation**2)
    return np.asarray(
        np.divide(squares, count - 1, out=np.full(len(count), np.nan), where=count > 1)[groups]
    )


def proportion_floor(
    hits: Floats, weights: Floats | None = None, groups: Integers | None = None
) -> float:
    """Return the standard error of a proportion with two hits and misses added (Agresti & Coull).

    Keeps the interval of 0 or of all hits from having no width. ``hits`` (n,) are 0 or 1, or shares
    of several models' hits. With ``groups`` the four rows are distributed over the groups and the
    variance is that within them.
    """
    w = np.full(len(hits), 1 / len(hits)) if weights is None else weights
    rows = effective_rows(w)
    if groups is None:
        share = np.full(len(hits), np.sum(w * hits))
    else:
        share = _group_means(hits, strata(groups))
    adjusted = (share * rows + 2) / (rows + 4)
    return float(np.sqrt(np.sum(w**2 * adjusted * (1 - adjusted)) * rows / (rows + 4)))


def agreement_floor(rows: float) -> float:
    """Return the least standard error of the difference of two models' hits on ``rows`` rows.

    Half a row in each cell of McNemar's table (Agresti & Min, Statistics in Medicine 24, 2005):
    models that agree on every row are not known to agree on all others.
    """
    return 1 / (rows + 2)


def _within(values: Floats, weights: Floats, groups: Integers) -> Floats:
    count = np.bincount(groups)[groups]
    unbiased = np.sqrt(np.divide(count, count - 1, out=np.zeros(len(count)), where=count > 1))
    return np.asarray(weights * (values - _group_means(values, groups)) * unbiased)


def _group_means(values: Floats, groups: Integers) -> Floats:
    """Return the mean of the group of each row, (n,)."""
    return np.asarray((np.bincount(groups, values) / np.maximum(np.bincount(groups), 1))[groups])


def effective_rows(weights: Floats) -> float:
    """Return 1 / sum(w²), the number of equally weighted rows with the same variance."""
    return float(1 / np.sum(weights**2))
