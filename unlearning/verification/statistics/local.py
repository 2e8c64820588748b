"""Tests of forgotten rows against the never-seen rows that are most like them.

Rows differ in difficulty, so a forgotten row is compared with the never-seen rows whose margins
under models that saw neither are nearest to its own. If the model never saw the row either, its
score is one of theirs drawn at random, whatever rows were chosen to be forgotten: a permutation
test within neighbourhoods, valid for any number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

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
    order = np.argsort(never_seen, kind="stable")
    first = np.clip(np.searchsorted(never_seen[order], forget) - k // 2, 0, m - k)
    return Neighbours(order[first[:, None] + np.arange(k)].astype(np.int64), m)


def ranks(forget: Floats, never_seen: Floats, near: Neighbours) -> Floats:
    """Return the rank of each forgotten row among its neighbours, (n,) from 0 to 1; ties half."""
    others = never_seen[near.rows]
    below = (others < forget[:, None]).mean(1) + (others == forget[:, None]).mean(1) / 2
    return np.asarray(below, dtype=np.float64)


def deviations(forget: Floats, never_seen: Floats, near: Neighbours) -> Floats:
    """Return each forgotten row's score less the mean of its neighbours' scores, (n,)."""
    return np.asarray(forget - never_seen[near.rows].mean(1), dtype=np.float64)


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
    each = [np.log1p(share * ratio).sum(-1) for share in _REMEMBERED]
    return np.asarray(np.logaddexp.reduce(each, 0))


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
    expected = [np.log1p(share * mean).sum() for share in _REMEMBERED]
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
