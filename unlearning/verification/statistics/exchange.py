"""Exact test of forgotten rows against never-seen ones: the rows are exchanged.

If the model never saw the forgotten rows either, they and never-seen rows as difficult are
exchangeable: with scores that do not depend on which rows are the forgotten ones, every choice of
as many rows from each stratum of difficulty is as likely (Fisher's permutation test; Lehmann &
Romano, Testing Statistical Hypotheses, 3rd ed., section 15.2). That the never-seen rows are a
sample, that rows share neighbours and that the sum is skewed is then all accounted for.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from unlearning.verification.statistics import local
from unlearning.verification.statistics.scores import Booleans, Floats, Integers

#: Never-seen rows in a stratum: this share of them, and of fewer than ``_FEW`` forgotten rows, and
#: bounds of their number. A small p-value of one row needs many rows to exchange it with.
_SHARE, _SHARE_OF_FEW, _FEW = 0.2, 0.4, 10
_LEAST, _MOST = 30, 400
#: Draws of the null distribution. With more rows of both kinds than ``_DRAWN_ROWS`` it is normal.
_DRAWS, _DRAWN_ROWS = 4000, 300
_SEED = 20_261_128


@dataclass(frozen=True)
class Pool:
    """Forgotten and never-seen rows together, N = n + m.

    ``score`` (N,) are log-likelihood ratios of being remembered that do not depend on which rows
    are forgotten; ``forgotten`` (N,) bool; ``stratum`` (N,) int64 from 0.
    """

    score: Floats
    forgotten: Booleans
    stratum: Integers


def strata(margins: Floats, *, forgotten: int) -> Integers:
    """Return the stratum (N,) of each row by its margin under models that saw neither.

    Strata are of equal size; equal margins may be parted, in the order of the rows.
    """
    never_seen = len(margins) - forgotten
    share = _SHARE if forgotten >= _FEW else _SHARE_OF_FEW
    least = max(_LEAST, min(_MOST, share * never_seen))
    count = max(1, int(never_seen / least))
    place = np.empty(len(margins), dtype=np.int64)
    place[np.argsort(margins, kind="stable")] = np.arange(len(margins))
    return np.asarray(place * count // len(margins), dtype=np.int64)


def remembered_p(pool: Pool) -> float:
    """Return the p-value of the forgotten rows' likelihood ratio if rows are exchanged in strata.

    Sensitive to all rows being remembered a little, and to a tenth of them being remembered well.
    Of many rows the ratio is that of the alternative with a tenth alone, whose logarithm is a sum
    and normal; its mean and variance under exchange are exact.
    """
    forgotten = int(pool.forgotten.sum())
    shares = local.shares(forgotten)
    if min(forgotten, len(pool.forgotten) - forgotten) > _DRAWN_ROWS:
        return _normal_p(local.evidence(pool.score, shares[0]), pool)
    each = np.stack([local.evidence(pool.score, share) for share in shares])
    ours = float(np.logaddexp.reduce(each[:, pool.forgotten].sum(1)))
    drawn = np.logaddexp.reduce(_drawn(each, pool), 0)
    reached = np.sum(drawn >= ours - 1e-9 * max(1.0, abs(ours)))
    return float((1 + reached) / (1 + _DRAWS))


def _drawn(values: Floats, pool: Pool) -> Floats:
    """Return sums of ``values`` (a, N) over rows drawn in the forgotten rows' place, (a, draws)."""
    random = np.random.default_rng(_SEED)
    sums = np.zeros((len(values), _DRAWS))
    for own, forgotten in _by_stratum(values, pool):
        size = own.shape[1]
        # Drawing the rows that remain is the same, and cheaper where they are fewer.
        fewer = min(forgotten, size - forgotten)
        part = np.zeros_like(sums)
        for rows in subsets(size, fewer, _DRAWS, random):
            part += own[:, rows]
        sums += part if fewer == forgotten else own.sum(1, keepdims=True) - part
    return sums


def subsets(size: int, count: int, draws: int, random: np.random.Generator) -> Integers:
    """Return ``count`` of ``size`` positions without repetition, (count, draws), drawn evenly.

    By Floyd's algorithm (Bentley & Floyd, Communications of the ACM 30, 1987).
    """
    found = np.empty((count, draws), dtype=np.int64)
    for i in range(count):
        last = size - count + i
        drawn = random.integers(0, last + 1, draws)
        found[i] = np.where((found[:i] == drawn).any(0), last, drawn)
    return found


def _normal_p(values: Floats, pool: Pool) -> float:
    """Return the normal p-value of the forgotten rows' sum of ``values`` (N,)."""
    mean = variance = 0.0
    for own, forgotten in _by_stratum(values[None], pool):
        size = own.shape[1]
        mean += forgotten * float(own.mean())
        remain = size - forgotten
        variance += forgotten * remain / size * float(own.var(ddof=1)) if remain else 0.0
    over = float(values[pool.forgotten].sum()) - mean
    if not variance > 0:
        return 1.0
    return NormalDist().cdf(-over / float(np.sqrt(variance)))


def _by_stratum(values: Floats, pool: Pool) -> list[tuple[Floats, int]]:
    """Return each stratum's ``values`` and how many of its rows are forgotten, where any are."""
    found = []
    for stratum in range(int(pool.stratum.max()) + 1):
        rows = pool.stratum == stratum
        if forgotten := int(pool.forgotten[rows].sum()):
            found.append((values[:, rows], forgotten))
    return found
