"""Can the loss tell a forgotten row from a never-seen one?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unlearning.verification.estimates import Estimate, contributions, effective_rows
from unlearning.verification.scores import Floats

#: (scores of forget rows, scores of never-seen rows); a higher score speaks for membership.
Pair = tuple[Floats, Floats]


def auc(pairs: Sequence[Pair], weights: Floats | None = None) -> Estimate:
    """P(score of a forget row > score of a never-seen row) + half of P(equal): Mann-Whitney.

    Each pair holds (n_b,) and (n_u,) float64 scores of one batch; never-seen rows are the same in
    every pair and weighted by ``weights`` (n_u,). The rows' contributions are DeLong's structural
    components V10 and V01. The floor is the standard error without any signal,
    sqrt((n_f + n_u + 1) / (12 n_f n_u)), so that three rows that agree do not pass for certainty.
    """
    w = _weights(pairs, weights)
    v10 = np.concatenate([_share_below(f, u, w) for f, u in pairs])
    v01 = np.sum([_count_above(u, f) for f, u in pairs], axis=0) / len(v10)
    n_f, n_u = len(v10), effective_rows(w)
    return Estimate(
        value=float(np.mean(v10)),
        forget=contributions(v10),
        never_seen=contributions(v01, w),
        floor=float(np.sqrt((n_f + n_u + 1) / (12 * n_f * n_u))),
        bounds=(0.0, 1.0),
    )


def true_positive_rate(
    pairs: Sequence[Pair], weights: Floats | None = None, *, at: float
) -> tuple[Estimate, float]:
    """Share of forget rows above the threshold that at most a share ``at`` of never-seen rows pass.

    Returns it with the realised false positive rate, which ties and few rows keep below ``at``.
    The threshold is itself drawn: a never-seen row moves it, which costs about TPR/FPR forget rows
    per never-seen row there, and enters the standard error to first order.
    """
    w = _weights(pairs, weights)
    n_f = sum(len(f) for f, _ in pairs)
    thresholds = [_threshold(u, w, at) for _, u in pairs]
    hits = np.concatenate(
        [(f > t).astype(float) for (f, _), t in zip(pairs, thresholds, strict=True)]
    )
    alarms = np.sum(
        [(u > t) * (len(f) / n_f) for (f, u), t in zip(pairs, thresholds, strict=True)], axis=0
    )
    value, realised = float(np.mean(hits)), float(np.sum(w * alarms))
    slope = max(1.0, value / realised) if realised > 0 else 1.0
    return Estimate(
        value=value,
        forget=contributions(hits),
        never_seen=-slope * contributions(alarms, w),
        floor=proportion_floor(value, n_f),
        bounds=(0.0, 1.0),
    ), realised


def proportion_floor(share: float, rows: float) -> float:
    """Standard error of a proportion after adding two hits and two misses (Agresti & Coull).

    Keeps the interval of 0 or of all hits from having no width.
    """
    adjusted = (share * rows + 2) / (rows + 4)
    return float(np.sqrt(adjusted * (1 - adjusted) / (rows + 4)))


def _weights(pairs: Sequence[Pair], weights: Floats | None) -> Floats:
    if weights is not None:
        return weights
    rows = len(pairs[0][1])
    return np.full(rows, 1 / rows)


def _share_below(forget: Floats, never_seen: Floats, weights: Floats) -> Floats:
    """Weight of never-seen rows below each forget row, equal ones counted half: V10 (n_b,)."""
    order = np.argsort(never_seen)
    ranked = never_seen[order]
    cumulated = np.concatenate([[0.0], np.cumsum(weights[order])])
    below = cumulated[np.searchsorted(ranked, forget, side="left")]
    up_to = cumulated[np.searchsorted(ranked, forget, side="right")]
    return np.asarray((below + up_to) / 2)


def _count_above(never_seen: Floats, forget: Floats) -> Floats:
    """Forget rows above each never-seen row, equal ones counted half, (n_u,)."""
    ranked = np.sort(forget)
    not_above = np.searchsorted(ranked, never_seen, side="right")
    below = np.searchsorted(ranked, never_seen, side="left")
    return np.asarray(len(forget) - (not_above + below) / 2)


def _threshold(never_seen: Floats, weights: Floats, at: float) -> float:
    """Smallest score that at most a share ``at`` of the never-seen rows exceeds."""
    values, where = np.unique(never_seen, return_inverse=True)
    mass = np.bincount(where, weights=weights)
    above = np.cumsum(mass[::-1])[::-1] - mass
    return float(values[np.argmax(above <= at + 1e-12)])
