"""Calibrated excess: how much better a model knows a row than models that never saw it.

For each row there is its margin φ under the model under test and its margin m under models of the
same recipe that were not trained on it. The *excess* φ − m of a row that the model never saw is
like that of the never-seen rows with the same m; that of a memorised row is larger.

The *score* makes the best use of both numbers: the logarithm of the likelihood ratio of φ given m
for retained rows, which the model was trained on, against never-seen ones. Both densities are
estimated by kernels (``statistics.density``). Each row is scored with a density of never-seen rows
that was estimated without its own part of them, forgotten rows like never-seen ones; so under a
model that saw neither both have the same distribution, however bad the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unlearning.verification.attacks import lira
from unlearning.verification.statistics import density, local
from unlearning.verification.statistics.exchange import Exchange
from unlearning.verification.statistics.outside import Outside
from unlearning.verification.statistics.scores import Booleans, Floats, Integers, ModelScores

#: Parts of the rows; each is scored with what the others show.
_PARTS = 4
#: Fewer never-seen rows with a known margin than this show nothing.
LEAST_NEVER_SEEN = 50
#: Fewer retained rows cannot show what is known of a row; the excess itself is then the score.
_LEAST_RETAINED = 50
_SEED = 20_260_702


@dataclass(frozen=True)
class Sample:
    """Forgotten rows with a known margin, with their never-seen neighbours, under one model.

    ``excess`` (n,) φ − m; ``score`` (n,); ``score_if_left`` (n,): that of a row with the control's
    φ; ``rank`` (n,): of each score among the neighbours';
    ``excess_rank`` and ``deviation`` (n,): rank of φ among the neighbours' φ, and φ less their
    mean, after these were moved to the row's m (``local.moved``). ``others_*`` (n, k): the same of
    the neighbours. ``exchange``: rows of both kinds. ``rows`` (n,) names the rows.
    """

    rows: Integers
    excess: Floats
    deviation: Floats
    score: Floats
    score_if_left: Floats
    rank: Floats
    excess_rank: Floats
    others_score: Floats
    others_deviation: Floats
    exchange: Exchange
    never_seen: int

    def __len__(self) -> int:
        return len(self.rows)


def sample(
    model: ModelScores, outside: Outside, *, control: ModelScores | None = None
) -> Sample | None:
    """Return the excess and the score of every forgotten row of which ``outside`` knows a margin.

    ``control`` are the scores of the model that still holds the rows, by default ``model`` itself.

    None if there is no such row, or if too few never-seen rows have one.
    """
    forget, audit = (
        _pairs(model.forget.loss, outside.forget),
        _pairs(model.audit.loss, outside.audit),
    )
    if not len(forget.at) or len(audit.at) < LEAST_NEVER_SEEN:
        return None
    near = local.neighbours(forget.outside, audit.outside)
    known = _pairs((control or model).forget.loss, outside.forget)
    chosen = local.chosen_shift(forget.outside, audit.outside, audit.own)
    forget, known = (replace(rows, own=rows.own - chosen) for rows in (forget, known))
    retained = _retained(model, outside)
    if retained is None:
        score, others = forget.own - forget.outside, audit.own - audit.outside
        left = known.own - known.outside
    else:
        score, left, others = _scores(forget, known, audit, retained)
    alike = local.moved(forget.outside, audit.outside, audit.own, near)
    expected = alike.mean(1)
    return Sample(
        rows=model.forget.rows[forget.at],
        excess=forget.own + chosen - forget.outside,
        deviation=forget.own - expected,
        score=score,
        score_if_left=left,
        rank=local.ranks(score, others[near.rows]),
        excess_rank=local.ranks(forget.own, alike),
        others_score=others[near.rows],
        others_deviation=alike - expected[:, None],
        exchange=Exchange.of((score, others), (forget.outside, audit.outside)),
        never_seen=len(audit.at),
    )


@dataclass(frozen=True)
class _Pairs:
    """Margins under the model and under others, (n,), of the rows at the positions ``at``."""

    own: Floats
    outside: Floats
    at: Integers

    def take(self, which: Booleans) -> _Pairs:
        """Return the rows of a mask."""
        return _Pairs(self.own[which], self.outside[which], self.at[which])


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


def _scores(
    forget: _Pairs, known: _Pairs, audit: _Pairs, retained: _Pairs
) -> tuple[Floats, Floats, Floats]:
    """Return the scores of forgotten rows, of the same under the control, and of never-seen rows.

    ``forget`` and ``known`` are n rows, ``audit`` m rows.
    """
    random = np.random.default_rng(_SEED)
    own_part = random.permutation(len(forget.own)) % _PARTS
    their_part = random.permutation(len(audit.own)) % _PARTS
    parts = ((forget, own_part), (known, own_part), (audit, their_part))
    found = [_log_density(rows, retained) for rows, _ in parts]
    for part in range(_PARTS):
        kept = audit.take(their_part != part)
        for score, (rows, own) in zip(found, parts, strict=True):
            score[own == part] -= _log_density(rows.take(own == part), kept)
    return found[0], found[1], found[2]


def _log_density(rows: _Pairs, sample: _Pairs) -> Floats:
    return density.log_density(rows.own, rows.outside, (sample.own, sample.outside))
