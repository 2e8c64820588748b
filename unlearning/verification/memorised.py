"""Whether the base version has memorised the forgotten rows, and the update still shows it.

A verification without power says nothing about the update. That matters where the base version
answers the forgotten rows right far more often than a model would that never saw them: there was
something to forget, and too few rows to show that it is gone.

The number of right answers of a model that never saw the rows is a sum of independent draws, row i
with probability q_i. With out-of-fold margins q_i is the probability that the margin of a single
training without the row is positive; without them it is the base version's accuracy on never-seen
rows of the row's class, which knows nothing of the row itself: a network that answers nearly all
never-seen rows right then shows nothing, whatever it has memorised.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from unlearning.verification.criteria import Criteria
from unlearning.verification.statistics.scores import Booleans, Floats, Scores

#: Weight, in rows, of the accuracy on all never-seen rows in that of a class.
_PRIOR_ROWS = 2.0
#: Rows above which the distribution of the sum is approximated by a normal one.
_EXACT_ROWS = 2000


@dataclass(frozen=True)
class Memorised:
    """How many of ``rows`` forgotten rows the base and the updated version answer right.

    ``expected`` is the mean of right answers of a model that never saw them. ``by_margins`` counts
    the rows that were compared with their own out-of-fold margins. ``shown``: the base version has
    memorised them. ``left``: and the updated version does not answer like a model without them.
    ``near``: it is by accuracies of never-seen rows that they are shown to be memorised, or would
    be by those that more such rows may well have.
    """

    rows: int
    control_right: int
    right: int
    expected: float
    by_margins: int
    shown: bool
    left: bool
    near: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the figures; they are about the forgotten rows, for auditors alone."""
        return {name: value for name, value in asdict(self).items() if name != "near"}


def measure(
    forget: Scores,
    never_seen: Scores,
    *,
    updated: Scores,
    criteria: Criteria,
    expected: Floats | None = None,
) -> Memorised:
    """Compare right answers on forgotten rows with those of a model that never saw them.

    ``forget`` and ``never_seen`` are the base version's scores, ``updated`` those of the updated
    version on the forgotten rows; ``expected`` (n,) float64 is the probability that the margin of a
    model without the row is positive, NaN where it is not known.

    The rows are memorised if the base version's share of right answers exceeds the expected one by
    more than ``criteria.memorised_gap``, and chance alone gives as many with a probability of at
    most 1 - ``criteria.miss_confidence``. It is not left if chance gives as many right answers as
    the updated version's with a probability above 1 - ``criteria.confidence``, and
    ``criteria.removed`` of the base version's excess is gone.
    """
    q = _of_classes(forget, never_seen)
    known = np.zeros(len(forget), dtype=np.bool_)
    if expected is not None:
        known = np.isfinite(expected)
        q = np.where(known, expected, q)
    mean = float(q.sum())

    def right(scores: Scores) -> int:
        # A margin is positive where the label has more than half of the probability.
        return int(np.where(known, scores.loss < math.log(2), scores.correct).sum())

    def memorised(chances: Floats) -> bool:
        far = before - float(chances.sum()) > criteria.memorised_gap * len(chances)
        return far and at_least(chances, before) <= 1 - criteria.miss_confidence

    before, after = right(forget), right(updated)
    shown = memorised(q)
    lowest = np.where(known, q, _lowest(q, forget, never_seen, criteria.miss_confidence))
    as_without = at_least(q, after) > 1 - criteria.confidence
    gone = as_without and after - mean <= (1 - criteria.removed) * (before - mean)
    return Memorised(
        rows=len(q),
        control_right=before,
        right=after,
        expected=mean,
        by_margins=int(known.sum()),
        shown=shown,
        left=shown and not gone,
        near=not known.all() and (shown or memorised(lowest)),
    )


def at_least(q: Floats, count: int) -> float:
    """Return the probability of ``count`` or more successes in draws of probability ``q`` (n,)."""
    if count <= 0:
        return 1.0
    if len(q) > _EXACT_ROWS:
        spread = math.sqrt(2 * max(float((q * (1 - q)).sum()), 1e-12))
        return 0.5 * math.erfc((count - 0.5 - float(q.sum())) / spread)
    shares = np.ones(1)
    for one in q:
        shares = np.append(shares * (1 - one), 0.0) + np.append(0.0, shares * one)
    return float(min(shares[count:].sum(), 1.0))


def _of_classes(forget: Scores, never_seen: Scores) -> Floats:
    """Return the accuracy on never-seen rows of each forgotten row's class, (n,) float64.

    A class with few rows is drawn towards the accuracy on all of them; with no never-seen row at
    all, nothing can be shown (1).
    """
    if not len(never_seen):
        return np.ones(len(forget))
    overall = float(never_seen.correct.mean())
    found = np.empty(len(forget))
    for label in np.unique(forget.label):
        hits: Booleans = never_seen.correct[never_seen.label == label]
        share = (hits.sum() + _PRIOR_ROWS * overall) / (len(hits) + _PRIOR_ROWS)
        found[forget.label == label] = share
    return found


def _lowest(q: Floats, forget: Scores, never_seen: Scores, confidence: float) -> Floats:
    """Return the one-sided lower limits of accuracies ``q`` (n,) on never-seen rows of a class."""
    labels, at = np.unique(forget.label, return_inverse=True)
    count = np.array([np.sum(never_seen.label == label) for label in labels])[at]
    error = np.sqrt(q * (1 - q) / (count + _PRIOR_ROWS))
    return np.asarray(np.clip(q - NormalDist().inv_cdf(confidence) * error, 0.0, 1.0))
