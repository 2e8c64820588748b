"""Calibrated excess: how much better a model knows a row than models that never saw it.

For each row there is its margin φ under the model under test and its margin m under models of the
same recipe that were not trained on it. The *excess* φ − m of a row that the model never saw is
like that of the never-seen rows with the same m; that of a memorised row is larger.

The *score* makes the best use of both numbers: the logarithm of the likelihood ratio of (φ, m) for
retained rows, which the model was trained on, against never-seen ones. It is estimated by logistic
regression on powers and hinges of φ, m and φ − m. Each row is scored with coefficients that were
fitted without its own part of the never-seen rows, forgotten rows like never-seen ones; so under a
model that saw neither both have the same distribution, however bad the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearning.verification.attacks import lira
from unlearning.verification.statistics import local
from unlearning.verification.statistics.outside import Outside
from unlearning.verification.statistics.scores import Floats, Integers, ModelScores

#: Parts of the rows; each is scored with what the others show.
_PARTS = 4
#: Fewer never-seen rows with a known margin than this show nothing.
LEAST_NEVER_SEEN = 50
#: Fewer retained rows cannot show what is known of a row; the excess itself is then the score.
_LEAST_RETAINED = 50
_QUARTILES = (0.1, 0.25, 0.5, 0.75)
_UPPER = (0.75, 0.9, 0.97)
_EXTREMES = (0.005, 0.995)
_RIDGE, _ITERATIONS, _LARGEST_LOGIT = 1.0, 8, 30.0
#: Rows of either kind that the regression is fitted to, at most.
_FITTED = 1000
_SEED = 20_260_702


@dataclass(frozen=True)
class Sample:
    """Forgotten rows with a known margin, with their never-seen neighbours, under one model.

    ``excess`` (n,) φ − m; ``score`` (n,); ``rank`` and ``excess_rank`` (n,): of each among the
    neighbours'; ``deviation`` (n,): excess less the neighbours' mean. ``others_*`` (n, k): the
    same of the neighbours. ``rows`` (n,) names the rows.
    """

    rows: Integers
    excess: Floats
    deviation: Floats
    score: Floats
    rank: Floats
    excess_rank: Floats
    others_score: Floats
    others_deviation: Floats
    never_seen: int

    def __len__(self) -> int:
        return len(self.rows)


def sample(model: ModelScores, outside: Outside) -> Sample | None:
    """Return the excess and the score of every forgotten row of which ``outside`` knows a margin.

    None if there is no such row, or if too few never-seen rows have one.
    """
    forget, audit = (
        _pairs(model.forget.loss, outside.forget),
        _pairs(model.audit.loss, outside.audit),
    )
    if not len(forget.at) or len(audit.at) < LEAST_NEVER_SEEN:
        return None
    near = local.neighbours(forget.outside, audit.outside)
    ours, theirs = forget.own - forget.outside, audit.own - audit.outside
    score, others = _scores(forget, audit, _retained(model, outside))
    return Sample(
        rows=model.forget.rows[forget.at],
        excess=ours,
        deviation=local.deviations(ours, theirs, near),
        score=score,
        rank=local.ranks(score, others, near),
        excess_rank=local.ranks(ours, theirs, near),
        others_score=others[near.rows],
        others_deviation=theirs[near.rows] - theirs[near.rows].mean(1, keepdims=True),
        never_seen=len(audit.at),
    )


@dataclass(frozen=True)
class _Pairs:
    """Margins under the model and under others, (n,), of the rows at the positions ``at``."""

    own: Floats
    outside: Floats
    at: Integers


def _pairs(loss: Floats, outside: Floats) -> _Pairs:
    at = np.flatnonzero(np.isfinite(outside)).astype(np.int64)
    # A lost precision of the loss bounds the margin; the others are bounded alike.
    bound = float(lira.log_odds(np.array([lira.SMALLEST_LOSS]))[0])
    own = np.clip(lira.log_odds(loss[at]), -bound, bound)
    return _Pairs(own, np.clip(outside[at], -bound, bound), at)


def _retained(model: ModelScores, outside: Outside) -> _Pairs | None:
    if model.retain is None or outside.retain is None:
        return None
    found = _pairs(model.retain.loss, outside.retain)
    return found if len(found.at) >= _LEAST_RETAINED else None


def _scores(forget: _Pairs, audit: _Pairs, retained: _Pairs | None) -> tuple[Floats, Floats]:
    """Return the scores of forgotten (n,) and never-seen rows (m,)."""
    if retained is None:
        return forget.own - forget.outside, audit.own - audit.outside
    knots, within = _knots(audit), _Range.of(retained, audit)
    known, ours, theirs = (
        _features(within.clipped(rows), knots) for rows in (retained, forget, audit)
    )
    random = np.random.default_rng(_SEED)
    known = known[random.permutation(len(known))[:_FITTED]]
    own_part = random.permutation(len(ours)) % _PARTS
    their_part = random.permutation(len(theirs)) % _PARTS
    score, others = np.zeros(len(ours)), np.zeros(len(theirs))
    for part in range(_PARTS):
        kept = np.flatnonzero(their_part != part)
        weights = _fit(known, theirs[random.permutation(kept)[:_FITTED]])
        score[own_part == part] = ours[own_part == part] @ weights
        others[their_part == part] = theirs[their_part == part] @ weights
    return score + within.beyond(forget), others + within.beyond(audit)


@dataclass(frozen=True)
class _Range:
    """The values that the regression was fitted to: beyond them a polynomial says nothing.

    A wrong label that no other row has may have a margin of 10 here and of −10 there. Such a row is
    scored as the nearest values that are known, plus what its excess lies beyond them.
    """

    own: tuple[float, float]
    outside: tuple[float, float]
    excess: tuple[float, float]

    @classmethod
    def of(cls, retained: _Pairs, audit: _Pairs) -> _Range:
        """Return the range of all but the most extreme rows."""

        def between(values: tuple[Floats, Floats]) -> tuple[float, float]:
            low, high = np.quantile(np.concatenate(values), _EXTREMES)
            return float(low), float(high)

        return cls(
            between((retained.own, audit.own)),
            between((retained.outside, audit.outside)),
            between((retained.own - retained.outside, audit.own - audit.outside)),
        )

    def clipped(self, rows: _Pairs) -> _Pairs:
        """Return the rows with both margins within the range."""
        return _Pairs(np.clip(rows.own, *self.own), np.clip(rows.outside, *self.outside), rows.at)

    def beyond(self, rows: _Pairs) -> Floats:
        """Return by how much the excess of each row lies beyond the range, (n,), half."""
        excess = rows.own - rows.outside
        return np.asarray((excess - np.clip(excess, *self.excess)) / 2)


def _knots(audit: _Pairs) -> tuple[Floats, Floats, Floats]:
    return (
        np.quantile(audit.own, _QUARTILES),
        np.quantile(audit.outside, _QUARTILES),
        np.quantile(audit.own - audit.outside, _UPPER),
    )


def _features(rows: _Pairs, knots: tuple[Floats, Floats, Floats]) -> Floats:
    """Return (n, features): constant, linear and quadratic terms, and hinges at the knots."""
    own, outside = rows.own, rows.outside
    columns = [np.ones(len(own)), own, outside, own**2, outside**2, own * outside]
    for values, at in zip((own, outside, own - outside), knots, strict=True):
        columns += [np.maximum(values - knot, 0.0) for knot in at]
    return np.stack(columns, 1)


def _fit(known: Floats, unknown: Floats) -> Floats:
    """Return the coefficients (features,) of a ridge logistic regression, both kinds alike heavy.

    By Newton's method on standardised features.
    """
    every = np.concatenate([known, unknown])
    mean, spread = every.mean(0), every.std(0)
    mean[0], spread[spread == 0] = 0.0, 1.0
    z = (every - mean) / spread
    y = np.concatenate([np.ones(len(known)), np.zeros(len(unknown))])
    heavy = len(y) / 2 * np.where(y > 0, 1 / len(known), 1 / len(unknown))
    penalty = np.full(z.shape[1], _RIDGE)
    penalty[0] = 1e-6
    weights = np.zeros(z.shape[1])
    for _ in range(_ITERATIONS):
        logits = np.clip(z @ weights, -_LARGEST_LOGIT, _LARGEST_LOGIT)
        probable = 1 / (1 + np.exp(-logits))
        curvature = (z * (heavy * probable * (1 - probable))[:, None]).T @ z + np.diag(penalty)
        slope = z.T @ (heavy * (y - probable)) - penalty * weights
        weights = weights + np.linalg.solve(curvature, slope)
    found = weights / spread
    found[0] -= float(np.sum(weights[1:] * mean[1:] / spread[1:]))
    return np.asarray(found)
