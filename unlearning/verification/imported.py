"""Whether what a version was said to be trained on agrees with how it scores.

A network knows its own training rows at least as well as rows it never saw. Both rules compare the
probability of the correct class, exp(-loss), which is bounded, so that a few mislabelled rows do
not decide. Classes have the same weights on both sides, because a split with more of an easy class
is no evidence.

1. *Chance*: the mean over the classes of the accuracy on training rows lies above 1 / classes,
   by a 99 % one-sided interval. It does not for a network with other inputs than in its training
   (another transform, classes in another order).
2. *Own rows*: audit rows are not known better than training rows, by a 99.9 % one-sided interval.
   A network for which they are was trained on other rows than stated.

If training rows are known better than audit rows by a 95 % one-sided interval, the statement is
confirmed; if neither can be shown, the version is marked ``unconfirmed_rows``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from unlearning.verification.statistics.scores import Floats, Scores

UNCONFIRMED = "unconfirmed_rows"

#: Confidence of each rule's one-sided interval.
CHANCE_CONFIDENCE = 0.99
WORSE_CONFIDENCE = 0.999
CONFIRMED_CONFIDENCE = 0.95

#: A set with fewer rows is not judged.
LEAST_ROWS = 10


@dataclass(frozen=True)
class _Difference:
    """A difference with its standard error."""

    value: float
    error: float

    def above(self, limit: float, confidence: float) -> bool:
        """Return whether the value lies above ``limit`` by a one-sided interval."""
        return self.value - NormalDist().inv_cdf(confidence) * self.error > limit

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "standard_error": self.error}


def judge(training: Scores, audit: Scores) -> dict[str, Any]:
    """Return ``{verdict, mark, rules, reasons, chance, training_less_audit}``; JSON-able.

    ``verdict`` is ``imported``, or ``failed`` with the reasons; ``mark`` is ``unconfirmed_rows`` or
    None.
    """
    found = _rules(training, audit)
    failed = [rule for rule in found["rules"] if rule["outcome"] == "failed"]
    confirmed = found["rules"][1]["outcome"] == "passed"
    return {
        "verdict": "failed" if failed else "imported",
        "mark": None if failed or confirmed else UNCONFIRMED,
        "reasons": [f"{rule['rule']}: {rule['reason']}" for rule in failed],
        **found,
    }


def _rules(training: Scores, audit: Scores) -> dict[str, Any]:
    if len(training) < LEAST_ROWS:
        few = f"{len(training)} training rows are fewer than {LEAST_ROWS}"
        return {"rules": [_rule("chance", "no_power", few), _rule("own_rows", "no_power", few)]}
    classes = len(np.unique(training.label))
    chance = 1 / classes
    accuracy = _of_classes(training.correct.astype(np.float64), training.label)
    rules = [_chance(accuracy, chance)]
    told: dict[str, Any] = {"chance": {"level": chance, "class_accuracy": accuracy.to_json()}}
    if len(audit) < LEAST_ROWS or not np.intersect1d(training.label, audit.label).size:
        few = f"{len(audit)} audit rows of the classes trained on are too few to compare with"
        return {"rules": [*rules, _rule("own_rows", "no_power", few)], **told}
    difference = _known_better(training, audit)
    told["training_less_audit"] = difference.to_json()
    return {"rules": [*rules, _own_rows(difference)], **told}


def _chance(accuracy: _Difference, chance: float) -> dict[str, str]:
    found = f"accuracy on training rows, over the classes, is {accuracy.value:.3f}"
    if accuracy.above(chance, CHANCE_CONFIDENCE):
        return _rule("chance", "passed", f"{found}, above the {chance:.3f} of chance")
    return _rule(
        "chance",
        "failed",
        f"{found}, not above the {chance:.3f} of chance; check that the model's transform and the "
        "order of its classes are those of the training",
    )


def _own_rows(difference: _Difference) -> dict[str, str]:
    found = f"probability of the right class, training less audit rows: {difference.value:+.4f}"
    reverse = _Difference(-difference.value, difference.error)
    if reverse.above(0.0, WORSE_CONFIDENCE):
        return _rule(
            "own_rows",
            "failed",
            f"{found}; audit rows are known better than the rows said to be trained on, so it was "
            "trained on others; import it with the list of those",
        )
    if difference.above(0.0, CONFIRMED_CONFIDENCE):
        return _rule("own_rows", "passed", f"{found}; training rows are known better")
    return _rule(
        "own_rows",
        "no_power",
        f"{found}; this neither confirms nor contradicts which rows it was trained on",
    )


def _known_better(training: Scores, audit: Scores) -> _Difference:
    """Return mean exp(-loss) on training less audit rows, classes weighted as in both."""
    shared = np.intersect1d(training.label, audit.label)
    sides = [s.take(np.isin(s.label, shared)) for s in (training, audit)]
    counts = [np.array([np.sum(s.label == label) for label in shared]) for s in sides]
    # Weights of small variance: the harmonic mean of both sides' rows of a class.
    weights = counts[0] * counts[1] / (counts[0] + counts[1])
    weights = weights / weights.sum()
    means, variances = zip(*(_stratified(s, shared, weights) for s in sides), strict=True)
    return _Difference(float(means[0] - means[1]), math.sqrt(variances[0] + variances[1]))


def _stratified(scores: Scores, labels: Any, weights: Floats) -> tuple[float, float]:
    """Return the mean over classes by ``weights``, and its variance, pooled within classes."""
    known = np.exp(-scores.loss)
    mean, squares = 0.0, 0.0
    counts = []
    for label, weight in zip(labels, weights, strict=True):
        here = known[scores.label == label]
        mean += weight * here.mean()
        squares += float(((here - here.mean()) ** 2).sum())
        counts.append(len(here))
    pooled = squares / max(len(known) - len(counts), 1)
    variance = float(np.sum(weights**2 * pooled / np.array(counts)))
    # Rows that agree are not certainty: at least the error of half a row (Agresti & Min).
    return float(mean), max(variance, (0.5 / (len(known) + 2)) ** 2)


def _of_classes(hits: Floats, labels: Any) -> _Difference:
    """Return the mean accuracy over classes, with a hit and a miss added to each variance."""
    means, variances = [], []
    for label in np.unique(labels):
        here = hits[labels == label]
        share = (here.sum() + 1) / (len(here) + 2)
        means.append(here.mean())
        variances.append(share * (1 - share) / len(here))
    return _Difference(float(np.mean(means)), math.sqrt(sum(variances)) / len(means))


def _rule(rule: str, outcome: str, reason: str) -> dict[str, str]:
    return {"rule": rule, "outcome": outcome, "reason": reason}
