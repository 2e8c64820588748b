"""Attacks on the loss: how well it tells forgotten rows from never-seen ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unlearning.verification.statistics.estimates import (
    Estimate,
    agreement_floor,
    contributions,
    effective_rows,
    group_variance,
    proportion_floor,
    strata,
)
from unlearning.verification.statistics.scores import Floats, Integers

#: (scores of forget rows, scores of never-seen rows); a higher score is evidence of membership.
Pair = tuple[Floats, Floats]
#: (classes of all forget rows, in the order of the pairs; classes of the never-seen rows).
Classes = tuple[Integers, Integers]

#: Variance of a uniformly distributed rank: that of a row among others like it.
UNIFORM_VARIANCE = 1 / 12

#: Sums of weights that should be equal differ by less than this.
ROUNDING = 1e-9


def auc(
    pairs: Sequence[Pair], weights: Floats | None = None, classes: Classes | None = None
) -> Estimate:
    """Return P(score of a forget row > score of a never-seen row) + P(equal) / 2: Mann-Whitney.

    Each pair holds (n_b,) and (n_u,) float64 scores of one batch; never-seen rows are the same in
    every pair and weighted by ``weights`` (n_u,). The rows' contributions are DeLong's structural
    components V10 and V01. The floor is the standard error without any signal,
    sqrt((n_f + n_u + 1) / (12 n_f n_u)), so that three rows that agree are not taken for certainty.

    ``classes`` belong to weights that match the never-seen rows to the forget rows' classes: the
    components are then centred, and the floor taken, within the classes.
    """
    w = _weights(pairs, weights)
    parts = [_placements(f, u, w) for f, u in pairs]
    v10 = np.concatenate([(p.below + p.up_to) / 2 for p in parts])
    v01 = np.sum([p.above for p in parts], axis=0) / len(v10)
    n_f, n_u = len(v10), effective_rows(w)
    forget, never_seen = classes or (None, None)
    return Estimate(
        value=float(np.mean(v10)),
        forget=contributions(v10, groups=forget),
        never_seen=contributions(v01, w, never_seen),
        floor=float(np.sqrt((n_f + n_u + 1) / (12 * n_f * n_u)))
        if classes is None
        else _error_without_signal(pairs[0][1], w, classes),
        bounds=(0.0, 1.0),
    )


def true_positive_rate(
    pairs: Sequence[Pair],
    weights: Floats | None = None,
    classes: Classes | None = None,
    *,
    at: float,
) -> tuple[Estimate, float]:
    """Return the share of forget rows above the threshold of a share ``at`` of never-seen rows.

    Returns it with the realised false positive rate, which ties and few rows keep below ``at``.
    The threshold is itself drawn: a never-seen row moves it, which costs about TPR/FPR forget rows
    per never-seen row there, and enters the standard error to first order. ``classes`` as for
    ``auc``.
    """
    w = _weights(pairs, weights)
    n_f = sum(len(f) for f, _ in pairs)
    # A row is above the threshold if the never-seen rows at or above it have at most weight `at`.
    weight = np.concatenate([1 - _placements(f, u, w).below for f, u in pairs])
    hits = (weight <= at + ROUNDING).astype(np.float64)
    alarms = np.sum([_alarms(u, w, at) * (len(f) / n_f) for f, u in pairs], axis=0)
    value, realised = float(np.mean(hits)), float(np.sum(w * alarms))
    slope = max(1.0, value / realised) if realised > 0 else 1.0
    forget, never_seen = classes or (None, None)
    return Estimate(
        value=value,
        forget=contributions(hits, groups=forget),
        never_seen=-slope * contributions(alarms, w, never_seen),
        floor=proportion_floor(hits, groups=forget),
        paired_floor=agreement_floor(n_f),
        bounds=(0.0, 1.0),
    ), realised


def curve(
    pairs: Sequence[Pair], weights: Floats | None = None, *, at: Sequence[float]
) -> list[float]:
    """Return the values of ``true_positive_rate`` at several false positive rates, (len(at),)."""
    w = _weights(pairs, weights)
    weight = np.concatenate([1 - _placements(f, u, w).below for f, u in pairs])
    return [float(np.mean(weight <= rate + ROUNDING)) for rate in at]


def _weights(pairs: Sequence[Pair], weights: Floats | None) -> Floats:
    if weights is not None:
        return weights
    rows = len(pairs[0][1])
    return np.full(rows, 1 / rows)


def _error_without_signal(never_seen: Floats, weights: Floats, classes: Classes) -> float:
    """Return the standard error of the AUC if forget rows were never-seen rows of their classes.

    sqrt(sum_g W_g² s_g² (1/n_g + 1/m_g)) over classes g with n_g forget and m_g never-seen rows,
    s_g² being the variance of the never-seen rows' ranks among all never-seen rows. Without
    classes s² is 1/12, up to the correction for small samples. The first batch's scores represent
    all: versions of one anchor rank never-seen rows much alike.
    """
    forget, own = classes
    among = _placements(never_seen, never_seen, weights)
    variance = group_variance((among.below + among.up_to) / 2, strata(own))
    variance = np.where(np.isnan(variance), UNIFORM_VARIANCE, variance)
    labels, first = np.unique(own, return_index=True)
    of_forget = variance[first][np.searchsorted(labels, forget)]
    return float(np.sqrt(np.mean(of_forget) / len(forget) + np.sum(weights**2 * variance)))


@dataclass(frozen=True)
class _Placements:
    """Ranks of the rows of one batch among those of the other kind."""

    #: Weight of the never-seen rows below, and at or below, each forget row, (n_b,).
    below: Floats
    up_to: Floats
    #: Forget rows above each never-seen row, equal ones counted half, (n_u,).
    above: Floats


def _placements(forget: Floats, never_seen: Floats, weights: Floats) -> _Placements:
    """Sort only the forget rows, which is cheap for many small batches and many never-seen rows."""
    n = len(forget)
    order = np.argsort(forget)
    ranked = forget[order]
    smaller = np.searchsorted(ranked, never_seen, side="left")
    not_larger = np.searchsorted(ranked, never_seen, side="right")
    below, up_to = np.empty(n), np.empty(n)
    below[order] = np.cumsum(np.bincount(not_larger, weights, minlength=n + 1))[:n]
    up_to[order] = np.cumsum(np.bincount(smaller, weights, minlength=n + 1))[:n]
    return _Placements(below, up_to, above=n - (smaller + not_larger) / 2)


def _alarms(never_seen: Floats, weights: Floats, at: float) -> Floats:
    """Return 1 for never-seen rows where those at or above weigh at most ``at``, else 0, (n_u,)."""
    n = len(never_seen)
    # No more rows than this can have so little total weight, so the others need no sorting.
    most = min(n, int((at + ROUNDING) / weights.min()) + 1)
    top = np.argpartition(-never_seen, most - 1)[:most]
    top = top[np.argsort(-never_seen[top])]
    values = never_seen[top]
    last_equal = np.searchsorted(-values, -values, side="right") - 1
    at_or_above = np.cumsum(weights[top])[last_equal]
    alarms = np.zeros(n)
    alarms[top[at_or_above <= at + ROUNDING]] = 1.0
    return alarms
