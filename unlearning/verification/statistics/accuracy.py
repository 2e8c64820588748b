"""Accuracy and loss on a set, per class, and between forget and never-seen rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unlearning.verification.statistics.estimates import (
    Estimate,
    agreement_floor,
    contributions,
    effective_rows,
    proportion_floor,
)
from unlearning.verification.statistics.scores import Floats, Scores


def accuracy(scores: Scores) -> Estimate:
    """Return the share of the rows that are classified correctly."""
    hits = scores.correct.astype(np.float64)
    estimate = mean(hits, bounds=(0.0, 1.0))
    return replace(estimate, floor=proportion_floor(hits), paired_floor=agreement_floor(len(hits)))


def gap(pairs: Sequence[tuple[Scores, Scores]], weights: Floats) -> Estimate:
    """Return accuracy on forget rows minus that on never-seen rows of the same class mix.

    ``pairs`` are the (forget, never-seen) scores of each batch, ``weights`` (n_u,) those of the
    never-seen rows, which match their classes to the forget rows': hence the variance within
    classes.
    """
    forget = np.concatenate([f.correct for f, _ in pairs]).astype(float)
    shares = [len(f) / len(forget) for f, _ in pairs]
    never_seen = np.sum([s * u.correct for s, (_, u) in zip(shares, pairs, strict=True)], axis=0)
    ours, theirs = np.concatenate([f.label for f, _ in pairs]), pairs[0][1].label
    return Estimate(
        value=float(np.mean(forget) - np.sum(weights * never_seen)),
        forget=contributions(forget, groups=ours),
        never_seen=-contributions(never_seen, weights, theirs),
        floor=float(
            np.hypot(
                proportion_floor(forget, groups=ours),
                proportion_floor(never_seen, weights, theirs),
            )
        ),
        paired_floor=float(
            np.hypot(agreement_floor(len(forget)), agreement_floor(effective_rows(weights)))
        ),
        bounds=(-1.0, 1.0),
    )


def drop(before: Scores, after: Scores) -> Estimate:
    """Return the accuracy lost from ``before`` to ``after`` on the same rows, a share.

    The paired standard error of McNemar's table with half a row added to each of its four cells
    (Agresti & Min, Statistics in Medicine 24, 2005), so that two models which never disagree still
    have an error.
    """
    n = len(before)
    lost = float(np.sum(before.correct & ~after.correct)) + 0.5
    won = float(np.sum(~before.correct & after.correct)) + 0.5
    error = np.sqrt(max(lost + won - (lost - won) ** 2 / (n + 2), 0.0)) / (n + 2)
    return Estimate(
        value=(lost - won) / n,
        forget=np.zeros(0),
        never_seen=np.zeros(0),
        floor=float(error),
        bounds=(-1.0, 1.0),
    )


def mean(values: Floats, *, bounds: tuple[float, float]) -> Estimate:
    """Return the mean of ``values`` (n,), one for each row."""
    return Estimate(
        value=float(np.mean(values)),
        forget=contributions(values),
        never_seen=np.zeros(0),
        bounds=bounds,
    )


def describe(scores: Scores, *, confidence: float) -> dict[str, Any]:
    """Return rows, accuracy with interval, mean and median loss, overall and per class, as JSON."""
    summary = _summary(scores, confidence)
    summary["classes"] = {
        str(label): _summary(scores.take(scores.label == label), confidence)
        for label in np.unique(scores.label)
    }
    return summary


def _summary(scores: Scores, confidence: float) -> dict[str, Any]:
    if len(scores) == 0:
        return {"rows": 0, "accuracy": None, "interval": None, "loss": None, "median_loss": None}
    estimate = accuracy(scores)
    return {
        "rows": len(scores),
        "accuracy": estimate.value,
        "interval": list(estimate.interval(confidence)),
        "loss": float(np.mean(scores.loss)),
        "median_loss": float(np.median(scores.loss)),
    }
