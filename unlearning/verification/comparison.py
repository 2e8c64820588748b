"""Compare two models on the same rows: an approximate version and the exact one after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unlearning.errors import WrongOptions
from unlearning.verification import gates
from unlearning.verification.criteria import Criteria
from unlearning.verification.statistics import accuracy, divergence
from unlearning.verification.statistics.estimates import Estimate
from unlearning.verification.statistics.scores import Scores


def compare(
    approximate: Mapping[str, Scores], exact: Mapping[str, Scores], *, confidence: float = 0.95
) -> dict[str, Any]:
    """Return accuracy and loss of both on every set, paired differences, and divergence, as JSON.

    Differences are exact minus approximate, each with the two-sided interval of its paired
    standard error. ``divergence`` is the mean Jensen-Shannon divergence of the predictions in
    bits, for scores that kept their probabilities. Sets without rows are left out.
    """
    return {
        name: _set(approximate[name], exact[name], confidence)
        for name in approximate
        if name in exact and len(exact[name])
    }


def loses_accuracy(compared: Mapping[str, Any], criteria: Criteria) -> bool:
    """Return whether the exact model is less accurate than gates about utility allow.

    ``compared`` is the result of ``compare``. A loss counts if its whole interval lies above the
    limit of the gate that judges this set.
    """
    return any(
        -found["accuracy"]["difference"]["interval"][1] > criteria.limit(gate.limits[0])
        for gate in gates.installed()
        if isinstance(gate, gates.UtilityGate)
        and gate.compares is not None
        and (found := compared.get(gate.compares)) is not None
    )


def _set(approximate: Scores, exact: Scores, confidence: float) -> dict[str, Any]:
    if not np.array_equal(approximate.rows, exact.rows):
        raise WrongOptions("models are compared on the same rows in the same order")
    # ``drop`` from the exact to the approximate one is the exact one's advantage.
    accuracies = accuracy.drop(exact, approximate)
    losses = accuracy.mean(exact.loss - approximate.loss, bounds=(-np.inf, np.inf))
    return {
        "rows": len(exact),
        "accuracy": _both(approximate.correct, exact.correct)
        | {"difference": _estimate(accuracies, confidence)},
        "loss": _both(approximate.loss, exact.loss) | {"difference": _estimate(losses, confidence)},
        "divergence": _divergence(approximate, exact, confidence),
    }


def _both(approximate: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    return {"approximate": float(np.mean(approximate)), "exact": float(np.mean(exact))}


def _divergence(approximate: Scores, exact: Scores, confidence: float) -> dict[str, Any] | None:
    if approximate.probabilities is None or exact.probabilities is None:
        return None
    apart = divergence.jensen_shannon(approximate.probabilities, exact.probabilities)
    return _estimate(accuracy.mean(apart, bounds=(0.0, 1.0)), confidence)


def _estimate(estimate: Estimate, confidence: float) -> dict[str, Any]:
    return {"value": estimate.value, "interval": list(estimate.interval(confidence))}
