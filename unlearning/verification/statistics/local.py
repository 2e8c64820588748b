"""Tests of forgotten rows against the never-seen rows that are most like them.

Rows differ in difficulty, so a forgotten row is compared with the never-seen rows whose margins
under models that saw neither are nearest to its own. If the model never saw the row either, its
value is one of theirs drawn at random, whatever rows were chosen to be forgotten. The never-seen
rows are a sample as well, which widens the distribution of a mean of n such values (``upper_p``).
Scores are tested by exchange of rows (``statistics.exchange``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from unlearning.verification.statistics import density
from unlearning.verification.statistics.scores import Floats, Integers

#: Share of the never-seen rows that each of ``_FEW`` or more forgotten rows, and each of fewer, is
#: compared with, and bounds of their number. A small p-value of one row needs many neighbours; for
#: many rows small differences between a row and its neighbours would add up.
_SHARE, _SHARE_OF_FEW, _FEW = 0.2, 0.4, 10
_LEAST, _MOST = 30, 400
#: Draws of the null distribution. With more rows than ``_DRAWN_ROWS`` it is normal.
_DRAWS, _DRAWN_ROWS = 4000, 200
#: Shares of the rows that may be remembered, in the alternatives to which a test is sensitive.
_REMEMBERED = (0.1, 0.5, 1.0)
#: The alternative to which the test of many rows is sensitive.
TENTH = _REMEMBERED[0]
_LARGEST_LOG, _SMALLEST_LOG = 8.0, -25.0
_SEED = 20_260_701


@dataclass(frozen=True)
class Neighbours:
    """``rows`` (n, k) int64: positions of the never-seen rows nearest to each forgotten one.

    ``never_seen`` is the number of never-seen rows that they were chosen from.
    """

    rows: Integers
    never_seen: int

    def take(self, positions: Integers) -> Neighbours:
        """Return the neighbours of the forgotten rows at ``positions``."""
        return Neighbours(self.rows[positions], self.never_seen)


def compared(rows: int, never_seen: int) -> int:
    """Return with how many of the never-seen rows each of so many forgotten ones is compared."""
    share = _SHARE if rows >= _FEW else _SHARE_OF_FEW
    return min(never_seen, max(_LEAST, min(_MOST, round(share * never_seen))))


def neighbours(forget: Floats, never_seen: Floats) -> Neighbours:
    """Return the neighbours of rows by margins (n,) and (m,) under models that saw neither.

    They are consecutive in the order of the margins, as many below as above where there are.
    """
    m = len(never_seen)
    return Neighbours(density.nearest(forget, never_seen, compared(len(forget), m)), m)


def ranks(forget: Floats, others: Floats) -> Floats:
    """Return the rank of each forgotten row (n,) among its neighbours (n, k), 0 to 1; ties half."""
    below = (others < forget[:, None]).mean(1) + (others == forget[:, None]).mean(1) / 2
    return np.asarray(below, dtype=np.float64)


def moved(forget: Floats, never_seen: Floats, values: Floats, near: Neighbours) -> Floats:
    """Return the ``values`` (m,) of each forgotten row's neighbours, (n, k), moved to its margin.

    ``forget`` (n,) and ``never_seen`` (m,) are margins under models that saw neither. Values are
    moved along the neighbours' regression line. Without that the easiest and the hardest rows,
    whose neighbours all lie on one side, would seem to differ from them.
    """
    at, theirs = never_seen[near.rows], values[near.rows]
    slope = density.slopes(at, theirs)
    return np.asarray(theirs + slope[:, None] * (forget[:, None] - at))


def chosen_shift(forget: Floats, never_seen: Floats, values: Floats) -> float:
    """Return by how much forgotten rows that were chosen for their difficulty lie above others.

    ``forget`` (n,) and ``never_seen`` (m,) are margins under models that saw neither, ``values``
    (m,) the never-seen rows' margins under the model. A margin is a row's difficulty plus noise, so
    ``values`` regress towards the mean of all rows, but those of rows that are easier as a group
    towards the group's mean: they lie higher by 1 − slope times the difference of the means. That
    difference is reduced by what chance explains (James & Stein's positive-part estimate), so rows
    drawn at random are hardly shifted. Few rows show nothing of how they were chosen.
    """
    if len(forget) < _FEW:
        return 0.0
    apart = float(np.mean(forget) - np.mean(never_seen))
    chance = float(np.var(never_seen)) * (1 / len(forget) + 1 / len(never_seen))
    if apart**2 <= chance:
        return 0.0
    slope = float(density.slopes(never_seen[None], values[None])[0])
    return (1 - min(max(slope, 0.0), 1.0)) * apart * (1 - chance / apart**2)


def evidence(scores: Floats, share: float) -> Floats:
    """Return log(1 + ε(L − 1)) of log-likelihood ratios log L of being remembered, same shape.

    It is the log-likelihood ratio of the alternative in which a row is remembered with probability
    ε, the ``share``.
    """
    ratio = np.exp(np.clip(scores, _SMALLEST_LOG, _LARGEST_LOG)) - 1
    return np.asarray(np.log1p(share * ratio))


def shares(rows: int) -> list[float]:
    """Return the shares of so many rows that are at least one row."""
    return [share for share in _REMEMBERED if share * rows >= 1]


def rounding(total: float) -> float:
    """Return by how much sums that count as equal to ``total`` may differ from it."""
    return 1e-9 * max(1.0, abs(total))


def p_value(forget: Floats, candidates: Floats, *, shift: float = 0.0, wider: float = 1.0) -> float:
    """Return the probability of a sum at least as large if each row is a candidate of its.

    ``candidates`` (n, k) are the values of each row's neighbours; the row itself is one more.
    ``shift`` is added to every drawn value. The drawn sums are ``wider`` around their mean.
    """
    n, k = candidates.shape
    every = np.concatenate([candidates + shift, forget[:, None]], 1)
    random = np.random.default_rng(_SEED)
    chosen = random.integers(0, k + 1, (_DRAWS, n))
    mean, ours = float(every.mean(1).sum()), float(forget.sum())
    drawn = mean + wider * (every[np.arange(n), chosen].sum(1) - mean)
    reached = np.sum(drawn >= ours - rounding(ours))
    return float((1 + reached) / (1 + _DRAWS))


def remembered_share(scores: Floats) -> float:
    """Return the most likely share of remembered rows by their log-likelihood ratios (n,)."""
    ratio = np.exp(np.clip(scores, _SMALLEST_LOG, _LARGEST_LOG)) - 1
    shares = np.linspace(0.0, 1.0, 101)
    return float(shares[np.argmax(np.log1p(shares[:, None] * ratio).sum(1))])


def left_p(scores: Floats, left: Floats, candidates: Floats, *, never_seen: int) -> float:
    """Return the probability of so little evidence if a tenth of the rows were left as they were.

    The evidence is that of the alternative with a tenth remembered. In it a row has the score that
    it had if it were left (``left``, (n,)) with a probability of a tenth, else one of its
    ``candidates`` (n, k). For rows enough that the sum is normal.
    """
    share, n = TENTH, len(scores)
    ours, stays, others = (evidence(one, share) for one in (scores, left, candidates))
    mean = (1 - share) * others.mean(1) + share * stays
    square = (1 - share) * (others**2).mean(1) + share * stays**2
    # The candidates are a sample as well; which rows are left is not.
    variance = (square - mean**2).sum() + others.var(1, ddof=1).sum() * n / never_seen
    under = float(ours.sum() - mean.sum()) + rounding(float(ours.sum()))
    return NormalDist().cdf(under / math.sqrt(max(variance, 1e-300)))


def _few(rows: int, never_seen: int) -> bool:
    """Return whether to draw: few rows, also in proportion to the never-seen ones."""
    return rows <= min(_DRAWN_ROWS, max(_LEAST, never_seen // 5))


def upper_p(forget: Floats, candidates: Floats, *, never_seen: int, shift: float = 0.0) -> float:
    """Return the one-sided p-value of a large mean of ``forget`` (n,) against ``candidates``.

    By drawing for few rows; for many the sum is normal. Its variance is larger by the factor
    1 + (n − 1) / ``never_seen``, because the never-seen rows are a sample as well: forgotten rows
    differ from it together, a single one is exchanged with it (Bates, Candès, Lei, Romano & Sesia,
    "Testing for outliers with conformal p-values", Annals of Statistics 51, 2023).
    """
    n = len(forget)
    if n == 0:
        return 1.0
    wider = math.sqrt(1 + (n - 1) / never_seen)
    if _few(n, never_seen):
        return p_value(forget, candidates, shift=shift, wider=wider)
    mean = candidates.mean(1) + shift
    deviation = wider * math.sqrt(candidates.var(1, ddof=1).sum())
    over = float(forget.sum() - mean.sum()) - rounding(float(forget.sum()))
    if not deviation > 0:
        return 1.0 if over <= 0 else 0.0
    return NormalDist().cdf(-over / deviation)
