"""Gates about removal: what each metric's target and limit are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearning.verification import matching, measures, pooling
from unlearning.verification.estimates import Estimate
from unlearning.verification.gates import Gates
from unlearning.verification.matching import Comparison, Evidence
from unlearning.verification.measures import Metric
from unlearning.verification.scores import ModelScores, Scores
from unlearning.verification.verdict import Excess, Outcome, Question, Verdict

#: False positive rates at which the true positive rate is given; the first one is judged.
COMMON, RARE = 0.01, 0.001
#: Below this many never-seen rows above its threshold, a true positive rate says nothing.
LEAST_ROWS_ABOVE_THRESHOLD = 5

Judged = tuple[list[Metric], list[Outcome]]


def records(
    comparison: Comparison, *, gates: Gates, exact: bool, own: Comparison | None = None
) -> Judged:
    """Records: as if never seen. ``own`` is the current batch alone where others are pooled."""
    if comparison.forget_rows == 0:
        reason = "no forgotten row has never-seen rows of its class to be compared with"
        return [], [Outcome("membership", "removal", Verdict.NO_POWER, reason)]
    metrics, questions = _asked(comparison, gates, exact)
    rare = measures.true_positive_rate(comparison, at=RARE)
    metrics += [rare, measures.version_difference_auc(comparison)]
    known = comparison.with_references()
    if known is not None:
        metrics.append(measures.rmia_auc(known))
    if own is None:
        return metrics, [question.answer(gates) for question in questions]
    alone = _asked(own, gates, exact)[1] if own.forget_rows else []
    return metrics, pooling.settle(questions, alone, rows=own.forget_rows, gates=gates)


def classes(evidence: Evidence, *, gates: Gates) -> Judged:
    """A class: its training rows and its never-seen rows are no longer recognised.

    No lineage excuses a failure here: a model trained without a class does not recognise it, so
    one that does was not trained without it. What the membership attacks find is reported and not
    judged, since rows of a forgotten class are not meant to look like rows never seen.
    """
    forgotten = np.unique(evidence.unlearned.forget.label)
    picks: dict[str, Callable[[ModelScores], Scores]] = {
        "class_accuracy": lambda m: m.forget,
        "class_accuracy_never_seen": lambda m: m.audit.take(np.isin(m.audit.label, forgotten)),
    }
    metrics, outcomes = [], []
    for name, pick in picks.items():
        if len(pick(evidence.unlearned)):
            metric = measures.class_accuracy(evidence, name, pick)
            metrics.append(metric)
            outcomes.append(_ask_class(metric, gates).answer(gates))
    comparison = matching.match([evidence])
    if comparison.forget_rows:
        metrics += [
            measures.membership_auc(comparison),
            measures.true_positive_rate(comparison, at=COMMON),
            measures.true_positive_rate(comparison, at=RARE),
            measures.version_difference_auc(comparison),
        ]
    return metrics, outcomes


def _asked(
    comparison: Comparison, gates: Gates, exact: bool
) -> tuple[list[Metric], list[Question]]:
    """The metrics that gates judge, and what each gate asks."""
    auc = measures.membership_auc(comparison)
    gap = measures.forget_accuracy_gap(comparison)
    rate = measures.true_positive_rate(comparison, at=COMMON)
    metrics = [auc, gap, rate]
    questions = [
        _ask_auc(auc, gates, exact),
        _ask_gap(gap, gates, exact),
        _ask_rate(rate, gates, exact),
    ]
    known = comparison.with_references()
    if known is not None:
        calibrated = measures.calibrated_membership_auc(known)
        metrics.append(calibrated)
        questions.append(_ask_calibrated(calibrated, gates, exact))
    return metrics, questions


@dataclass(frozen=True)
class _Distance:
    """Distance of both models from the target, and the target in words."""

    unlearned: Estimate
    control: Estimate
    target: str


def _from_reference_or(metric: Metric, target: float, words: str) -> _Distance:
    """Distance from the references' mean where there is one, else from ``target``."""
    new, old = metric.unlearned, metric.control
    assert old is not None
    if metric.reference is None:
        return _Distance(new.shifted(-target), old.shifted(-target), words)
    reference = metric.reference
    found = f"the references' {reference.value:.3f}"
    return _Distance(new.minus(reference), old.minus(reference), found)


def _ask_auc(metric: Metric, gates: Gates, exact: bool) -> Question:
    against_reference = metric.reference is not None
    limit = gates.membership_auc_to_reference if against_reference else gates.membership_auc
    return _ask(
        "membership",
        metric,
        _from_reference_or(metric, 0.5, "0.5"),
        limit=limit,
        what="the membership AUC",
        exact=exact,
    )


def _ask_calibrated(metric: Metric, gates: Gates, exact: bool) -> Question:
    assert metric.control is not None
    # A model without the rows shows .5 here whatever the rows: the references took their
    # difficulty out, so no reference is subtracted once more.
    distance = _Distance(metric.unlearned.shifted(-0.5), metric.control.shifted(-0.5), "0.5")
    return _ask(
        "calibrated_membership",
        metric,
        distance,
        limit=gates.membership_auc,
        what="the calibrated membership AUC",
        exact=exact,
    )


def _ask_gap(metric: Metric, gates: Gates, exact: bool) -> Question:
    words = "that of never-seen rows of the same classes"
    distance = _from_reference_or(metric, 0.0, words)
    return _ask(
        "forget_accuracy",
        metric,
        distance,
        limit=gates.forget_accuracy,
        what="forget accuracy"
        if metric.reference is None
        else "forget accuracy less that of never-seen rows of the same classes",
        exact=exact,
    )


def _ask_rate(metric: Metric, gates: Gates, exact: bool) -> Question:
    assert metric.control is not None
    at = float(metric.notes["false_positive_rate"])
    what = f"the true positive rate at {at:.1%} false positives"
    realised = min(
        metric.notes["realised_false_positive_rate"],
        metric.notes["control_realised_false_positive_rate"],
    )
    if realised * metric.never_seen_rows < LEAST_ROWS_ABOVE_THRESHOLD - 1e-9:
        few = f"fewer than {LEAST_ROWS_ABOVE_THRESHOLD} of {metric.never_seen_rows} never-seen rows"
        reason = f"{few} lie above the threshold of {what}"
        return Question("true_positive_rate", None, reason)
    distance = _Distance(metric.unlearned.shifted(-at), metric.control.shifted(-at), f"{at:g}")
    return _ask(
        "true_positive_rate",
        metric,
        distance,
        limit=max(gates.true_positive_rate - at, 0.0),
        what=what,
        exact=exact,
        two_sided=False,
    )


def _ask_class(metric: Metric, gates: Gates) -> Question:
    return _ask(
        metric.name,
        metric,
        _from_reference_or(metric, 0.0, "zero"),
        limit=gates.class_accuracy,
        what="accuracy on the forgotten class",
        two_sided=False,
    )


def _ask(gate: str, metric: Metric, distance: _Distance, **judged: Any) -> Question:
    excess = Excess(
        unlearned=distance.unlearned,
        control=distance.control,
        target=distance.target,
        rows=metric.rows,
        **judged,
    )
    return Question(gate, excess)
