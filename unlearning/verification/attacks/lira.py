"""Membership attacks calibrated per row with models that never saw the rows.

A hard row has a large loss under every model; evidence of membership is a loss smaller than that of
reference models. Carlini et al., "Membership inference attacks from first principles"
(S&P 2022), sections V and VI; Zarifzadeh, Liu & Shokri, "Low-cost high-power membership inference
attacks" (ICML 2024), section 3.
"""

from __future__ import annotations

import numpy as np

from unlearning.verification.statistics.scores import Floats

#: Smaller losses are raised to this, so that 1 - p and its logarithm stay finite at p = 1.
SMALLEST_LOSS = 1e-15
#: Larger losses are lowered to this, so that one row does not dominate a mean.
LARGEST_LOSS = 1e3


def log_odds(loss: Floats) -> Floats:
    """Return log(p / (1 - p)) of the label from the loss -log p, same shape.

    Over models it is approximately normally distributed.
    """
    bounded = np.clip(loss, SMALLEST_LOSS, LARGEST_LOSS)
    return np.asarray(-bounded - np.log(-np.expm1(-bounded)))


def offline(target: Floats, outside: Floats, *, deviation: float) -> Floats:
    """Return (φ - μ_out) / σ of every row (n,): Carlini et al., equation 4, before the normal CDF.

    ``target`` (n,) and ``outside`` (models, n) are log odds under the attacked model and under
    references that did not see the rows; ``deviation`` is σ, shared by all rows because a handful
    of references cannot give one per row.
    """
    return np.asarray((target - outside.mean(axis=0)) / deviation)


def rmia(
    target: Floats,
    references: Floats,
    population_target: Floats,
    population_references: Floats,
    *,
    gamma: float = 1.0,
) -> Floats:
    """Return the share of population rows z that each row x dominates, (n,): RMIA.

    Pr_z[(p(x|θ)/p(x)) / (p(z|θ)/p(z)) ≥ γ] where p(·) is the mean over the references. All are
    losses -log p: ``target`` (n,), ``references`` (models, n), ``population_*`` likewise with
    (m,) and (models, m). Equality counts half: a population row that is scored, too, would
    otherwise dominate itself, which no other row can, and make the AUC 1 / (2m) too small.
    """
    ours = _log_ratio(target, references)
    theirs = np.sort(_log_ratio(population_target, population_references))
    threshold = ours - np.log(gamma)
    below = np.searchsorted(theirs, threshold, side="left")
    up_to = np.searchsorted(theirs, threshold, side="right")
    return np.asarray((below + up_to) / 2 / len(theirs))


def _log_ratio(target: Floats, references: Floats) -> Floats:
    """Return log p(x|θ) - log mean_k p(x|θ_k), (n,), in log space."""
    mean = np.logaddexp.reduce(-references, axis=0) - np.log(len(references))
    return np.asarray(-target - mean)
