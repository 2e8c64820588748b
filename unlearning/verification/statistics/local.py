"""Tests of forgotten rows against the never-seen rows that are most like them.

Rows differ in difficulty, so a forgotten row is compared with the never-seen rows whose margins
under models that saw neither are nearest to its own. If the model never saw the row either, its
score is one of theirs drawn at random, whatever rows were chosen to be forgotten: a permutation
test within neighbourhoods, valid for any number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from unlearning.verification.statistics.scores import Floats, Integers

#: Never-seen rows that a forgotten row is compared with: a fifth of them, within these bounds.
_SHARE, _LEAST, _MOST = 0.2, 30, 400
#: Draws of the null distribution. With more rows than ``_DRAWN_ROWS`` it is normal.
_DRAWS, _DRAWN_ROWS = 4000, 200
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
    k = min(m, max(_LEAST, min(_MOST, round(_SHARE * m))))
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


def p_value(forget: Floats, candidates: Floats, *, shift: float = 0.0) -> float:
    """Return the probability of a mean at least as large if each row is one of its candidates.

    ``candidates`` (n, k) are the scores of each row's neighbours; the row itself is one more.
    ``shift`` is added to every drawn score. The never-seen rows are themselves drawn, which the
    normal approximation takes into account (``never_seen_p``).
    """
    n, k = candidates.shape
    every = np.concatenate([candidates, (forget - shift)[:, None]], 1)
    random = np.random.default_rng(_SEED)
    chosen = random.integers(0, k + 1, (_DRAWS, n))
    drawn = every[np.arange(n), chosen].sum(1)
    reached = np.sum(drawn + n * shift >= forget.sum() - 1e-9 * max(1.0, abs(forget.sum())))
    return float((1 + reached) / (1 + _DRAWS))


def upper_p(forget: Floats, candidates: Floats, *, never_seen: int, shift: float = 0.0) -> float:
    """Return the one-sided p-value of a large mean of ``forget`` (n,) against ``candidates``.

    By drawing for few rows. For many the sum is normal, and its variance is larger by the factor
    1 + n / ``never_seen``, because the never-seen rows are a sample as well.
    """
    n = len(forget)
    if n == 0:
        return 1.0
    if n <= min(_DRAWN_ROWS, max(_LEAST, never_seen // 5)):
        return p_value(forget, candidates, shift=shift)
    mean = candidates.mean(1) + shift
    variance = candidates.var(1, ddof=1).sum() * (1 + n / never_seen)
    if not variance > 0:
        return 1.0 if forget.sum() <= mean.sum() else 0.0
    return NormalDist().cdf(-float((forget - mean).sum() / np.sqrt(variance)))
