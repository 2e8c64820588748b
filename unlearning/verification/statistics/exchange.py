"""Test of forgotten rows against never-seen ones of their difficulty: the rows are exchanged.

If the model never saw the forgotten rows either, they and never-seen rows as difficult are
exchangeable: every choice of as many rows from each stratum of difficulty is as likely to be the
forgotten ones (Fisher's permutation test; Lehmann & Romano, "Testing Statistical Hypotheses", 3rd
ed., section 15.2). That the never-seen rows are a sample too, that rows share neighbours, and that
a few rows make up most of a sum, is then all accounted for.

The scores are not estimated anew for each choice. Each is cross-fitted to never-seen rows of other
parts (``attacks.excess``), so within a part rows of both kinds are scored alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from unlearning.verification.statistics import local
from unlearning.verification.statistics.scores import Booleans, Floats, Integers

#: Draws of the null distribution. With more rows of both kinds than ``_DRAWN_ROWS`` it is normal.
_DRAWS, _DRAWN_ROWS = 4000, 300
#: Batches of more rows are judged by themselves; the sum over their choices is long.
_CHAINED_ROWS = 200
_SEED = 20_261_128


@dataclass(frozen=True)
class Exchange:
    """Forgotten and never-seen rows together, N = n + m.

    ``score`` (N,): log-likelihood ratios of being remembered; ``forgotten`` (N,) bool; ``stratum``
    (N,) int64 from 0.
    """

    score: Floats
    forgotten: Booleans
    stratum: Integers

    @classmethod
    def of(cls, score: tuple[Floats, Floats], margin: tuple[Floats, Floats]) -> Exchange:
        """Return the exchange of forgotten rows (n,) and never-seen ones (m,), in this order.

        ``margin``: those under models that saw neither, by which rows are as difficult. Strata are
        consecutive in it, and have as many never-seen rows each, at least those that a row is
        compared with: wrong labels that no never-seen row has are exchanged with the hardest.
        Without never-seen rows there is one, in which nothing can be exchanged.
        """
        n, m = (len(one) for one in score)
        count = max(1, m // max(1, local.compared(n, m)))
        forgotten = np.arange(n + m) < n
        # Rows of equal margins have places in random order, whichever kind they are of.
        mixed = np.random.default_rng(_SEED).permutation(n + m)
        order = mixed[np.argsort(np.concatenate(margin)[mixed], kind="stable")]
        below = np.empty(n + m, dtype=np.int64)
        below[order] = np.cumsum(~forgotten[order])
        stratum = np.clip((below - ~forgotten) * count // max(1, m), 0, count - 1)
        return cls(np.concatenate(score), forgotten, stratum)

    def by_stratum(self, values: Floats) -> list[tuple[Floats, int]]:
        """Return ``values`` (a, N) of each stratum's rows, and how many are forgotten, if any."""
        found = []
        for stratum in range(int(self.stratum.max()) + 1):
            rows = self.stratum == stratum
            if forgotten := int(self.forgotten[rows].sum()):
                found.append((values[:, rows], forgotten))
        return found


def remembered_p(both: Exchange) -> float:
    """Return the p-value of the forgotten rows' likelihood ratio if rows are exchanged in strata.

    Sensitive to all rows being remembered a little, and to a tenth of them being remembered well.
    Of many rows the ratio is that of the alternative with a tenth alone, whose logarithm is a sum
    and normal; its mean and variance under exchange are exact.
    """
    forgotten = int(both.forgotten.sum())
    if min(forgotten, len(both.forgotten) - forgotten) > _DRAWN_ROWS:
        return _normal_p(local.evidence(both.score, local.TENTH), both)
    each = np.stack([local.evidence(both.score, share) for share in local.shares(forgotten)])
    ours = float(np.logaddexp.reduce(each[:, both.forgotten].sum(1)))
    drawn = np.logaddexp.reduce(_drawn(each, both), 0)
    reached = np.sum(drawn >= ours - local.rounding(ours))
    return float((1 + reached) / (1 + _DRAWS))


def log_e_value(both: Exchange) -> float:
    """Return the logarithm of the forgotten rows' likelihood ratio over its mean under exchange.

    So its mean is 1 under the null hypothesis of ``remembered_p``. Of more than 200 rows it is 1.
    """
    forgotten = int(both.forgotten.sum())
    if forgotten > _CHAINED_ROWS:
        return 0.0
    each = np.stack([local.evidence(both.score, share) for share in local.shares(forgotten)])
    means = np.stack([_log_mean_product(own, count) for own, count in both.by_stratum(each)])
    ours = np.logaddexp.reduce(each[:, both.forgotten].sum(1))
    return float(ours - np.logaddexp.reduce(means.sum(0)))


def _log_mean_product(logs: Floats, count: int) -> Floats:
    """Return log of the mean of ∏ exp(logs) over all choices of ``count`` of N columns, (a,).

    ``logs`` (a, N). Of t rows a choice of j has the last one with probability j / t.
    """
    mean = np.full((len(logs), count + 1), -np.inf)
    mean[:, 0] = 0.0
    chosen = np.arange(count + 1)
    with np.errstate(divide="ignore"):
        for t, last in enumerate(logs.T, start=1):
            without = mean + np.log(np.maximum(t - chosen, 0) / t)
            with_last = mean[:, :-1] + last[:, None] + np.log(chosen[1:] / t)
            mean = np.concatenate([without[:, :1], np.logaddexp(without[:, 1:], with_last)], 1)
    return np.asarray(mean[:, count])


def _drawn(values: Floats, both: Exchange) -> Floats:
    """Return sums of ``values`` (a, N) over rows drawn in the forgotten rows' place, (a, draws)."""
    random = np.random.default_rng(_SEED)
    sums = np.zeros((len(values), _DRAWS))
    for own, forgotten in both.by_stratum(values):
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


def _normal_p(values: Floats, both: Exchange) -> float:
    """Return the normal p-value of the forgotten rows' sum of ``values`` (N,)."""
    mean = variance = 0.0
    for own, forgotten in both.by_stratum(values[None]):
        size = own.shape[1]
        mean += forgotten * float(own.mean())
        remain = size - forgotten
        variance += forgotten * remain / size * float(own.var(ddof=1)) if remain else 0.0
    ours = float(values[both.forgotten].sum())
    over = ours - mean - local.rounding(ours)
    if not variance > 0:
        return 1.0
    return NormalDist().cdf(-over / float(np.sqrt(variance)))
