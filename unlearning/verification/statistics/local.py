"""Tests of forgotten rows against the never-seen rows that are most like them.

Rows differ in difficulty, so a forgotten row is compared with the never-seen rows whose margins
under models that saw neither are nearest to its own. If the model never saw the row either, its
score is one of theirs drawn at random, whatever rows were chosen to be forgotten: a permutation
test within neighbourhoods that takes the never-seen rows as given.
"""

from __future__ import annotations

from collections.abc import Callable
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


def neighbours(forget: Floats, never_seen: Floats) -> Neighbours:
    """Return the neighbours of rows by margins (n,) and (m,) under models that saw neither.

    They are consecutive in the order of the margins, as many below as above where there are.
    """
    m = len(never_seen)
    share = _SHARE if len(forget) >= _FEW else _SHARE_OF_FEW
    k = min(m, max(_LEAST, min(_MOST, round(share * m))))
    return Neighbours(density.nearest(forget, never_seen, k), m)


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


Statistic = Callable[[Floats], Floats]


def total(scores: Floats) -> Floats:
    """Return the sum over rows of scores (..., n)."""
    return np.asarray(scores.sum(-1))


def likelihood(scores: Floats) -> Floats:
    """Return the logarithm of a likelihood ratio averaged over alternatives, up to a constant.

    ``scores`` (..., n) are each row's log-likelihood ratio of being remembered. In the alternative
    with share ε a row is remembered with probability ε, so that its ratio L gives 1 + ε(L − 1).
    """
    ratio = np.exp(np.clip(scores, _SMALLEST_LOG, _LARGEST_LOG)) - 1
    each = [np.log1p(share * ratio).sum(-1) for share in _shares(scores.shape[-1])]
    return np.asarray(np.logaddexp.reduce(each, 0))


def _shares(rows: int) -> list[float]:
    """Return the shares of so many rows that are at least one row."""
    return [share for share in _REMEMBERED if share * rows >= 1]


def p_value(
    forget: Floats, candidates: Floats, *, statistic: Statistic = total, shift: float = 0.0
) -> float:
    """Return the probability of a statistic at least as large if each row is a candidate of its.

    ``candidates`` (n, k) are the scores of each row's neighbours; the row itself is one more.
    ``shift`` is added to every drawn score.
    """
    n, k = candidates.shape
    every = np.concatenate([candidates + shift, forget[:, None]], 1)
    random = np.random.default_rng(_SEED)
    chosen = random.integers(0, k + 1, (_DRAWS, n))
    drawn, ours = statistic(every[np.arange(n), chosen]), float(statistic(forget))
    reached = np.sum(drawn >= ours - 1e-9 * max(1.0, abs(ours)))
    return float((1 + reached) / (1 + _DRAWS))


def remembered_p(forget: Floats, candidates: Floats, *, never_seen: int) -> float:
    """Return the p-value of log-likelihood ratios (n,) against ``candidates`` (n, k).

    Sensitive to all rows being remembered a little, and to a tenth of them being remembered well.
    """
    if _few(len(forget), never_seen):
        return p_value(forget, candidates, statistic=likelihood)
    ours, theirs = (_of_a_tenth(scores) for scores in (forget, candidates))
    return upper_p(ours, theirs, never_seen=never_seen)


def remembered_share(scores: Floats) -> float:
    """Return the most likely share of remembered rows by their log-likelihood ratios (n,)."""
    ratio = np.exp(np.clip(scores, _SMALLEST_LOG, _LARGEST_LOG)) - 1
    shares = np.linspace(0.0, 1.0, 101)
    return float(shares[np.argmax(np.log1p(shares[:, None] * ratio).sum(1))])


def left_p(scores: Floats, left: Floats, candidates: Floats, *, never_seen: int) -> float:
    """Return the probability of so little evidence if a tenth of the rows were left as they were.

    The evidence is that of ``remembered_p`` for many rows. In the alternative a row has the score
    that it had if it were left (``left``, (n,)) with a probability of a tenth, else one of its
    ``candidates`` (n, k). For rows enough that the sum is normal.
    """
    share, n = _REMEMBERED[0], len(scores)
    ours, stays, others = (_of_a_tenth(one) for one in (scores, left, candidates))
    mean = (1 - share) * others.mean(1) + share * stays
    square = (1 - share) * (others**2).mean(1) + share * stays**2
    # The candidates are a sample as well; which rows are left is not.
    variance = (square - mean**2).sum() + others.var(1, ddof=1).sum() * n / never_seen
    return NormalDist().cdf(float((ours - mean).sum() / np.sqrt(max(variance, 1e-300))))


def log_e_value(forget: Floats, candidates: Floats, *, never_seen: int) -> float:
    """Return the logarithm of the likelihood ratio over its mean if each row is one of its own.

    ``forget`` (n,) and ``candidates`` (n, k) are log-likelihood ratios. With the row among its own
    candidates the mean is exactly 1 under the null hypothesis of ``p_value``, however bad the fit.
    Of so many rows that never-seen rows are too small a sample of it, the result is 0.
    """
    if not _few(len(forget), never_seen):
        return 0.0
    every = np.concatenate([candidates, forget[:, None]], 1)
    ratio = np.exp(np.clip(every, _SMALLEST_LOG, _LARGEST_LOG)) - 1
    mean = ratio.mean(1)
    expected = [np.log1p(share * mean).sum() for share in _shares(len(forget))]
    return float(likelihood(forget) - np.logaddexp.reduce(expected))


def _of_a_tenth(scores: Floats) -> Floats:
    ratio = np.exp(np.clip(scores, _SMALLEST_LOG, _LARGEST_LOG)) - 1
    return np.asarray(np.log1p(_REMEMBERED[0] * ratio))


def _few(rows: int, never_seen: int) -> bool:
    """Return whether to draw: few rows, and so few that the never-seen rows are as good as all."""
    return rows <= min(_DRAWN_ROWS, max(_LEAST, never_seen // 5))


def upper_p(forget: Floats, candidates: Floats, *, never_seen: int, shift: float = 0.0) -> float:
    """Return the one-sided p-value of a large mean of ``forget`` (n,) against ``candidates``.

    By drawing for few rows. For many the sum is normal, and its variance is larger by the factor
    1 + n / ``never_seen``, because the never-seen rows are a sample as well.
    """
    n = len(forget)
    if n == 0:
        return 1.0
    if _few(n, never_seen):
        return p_value(forget, candidates, shift=shift)
    mean = candidates.mean(1) + shift
    variance = candidates.var(1, ddof=1).sum() * (1 + n / never_seen)
    if not variance > 0:
        return 1.0 if forget.sum() <= mean.sum() else 0.0
    return NormalDist().cdf(-float((forget - mean).sum() / np.sqrt(variance)))
