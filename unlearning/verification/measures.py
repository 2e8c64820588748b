"""Metrics that compare forget rows with never-seen rows, for each scored model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unlearning.errors import WrongOptions
from unlearning.verification.attacks import membership
from unlearning.verification.disclosure import Disclosure
from unlearning.verification.statistics import accuracy, divergence, matching
from unlearning.verification.statistics.estimates import Estimate, average, exactly
from unlearning.verification.statistics.matching import Comparison, Evidence, Side
from unlearning.verification.statistics.scores import Floats, ModelScores, Scores

#: False positive rates at which the true positive rate is reported.
COMMON, RARE = 0.01, 0.001
#: Share of never-seen rows whose losses count as large.
LARGE = 0.1
#: Largest number of values of a note.
_PAIR = 2


@dataclass(frozen=True)
class Metric:
    """One quantity for the updated model, the unchanged control and the references' mean."""

    name: str
    unlearned: Estimate
    control: Estimate | None = None
    reference: Estimate | None = None
    rows: int = 0
    never_seen_rows: int = 0
    #: Who may read the value and its interval. Those of the control and the references, and the
    #: notes, count as figures of few rows if the rows are few.
    disclosure: Disclosure = Disclosure.FEW_ROWS
    #: The set whose rows the value is about: forget, retain, audit or calibration.
    rows_of: str = "forget"
    #: Further facts about the value: each a number, a word, or a pair of numbers.
    notes: Mapping[str, Any] = field(default_factory=dict)
    #: What a test of the gate needs beside the figure; never reported.
    sample: Any = None
    #: Lists with an item per row, which only auditors may read.
    records: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ``WrongOptions`` for a note that may describe single rows."""
        for name, note in self.notes.items():
            if isinstance(note, list | tuple | dict | np.ndarray) and len(note) > _PAIR:
                raise WrongOptions(
                    f"the note {name} of {self.name} has more than {_PAIR} values;"
                    " what has an item for each row belongs into `records`"
                )


def membership_auc(comparison: Comparison) -> Metric:
    """Measure the AUC of the loss attack; .5 if forgotten rows look like never-seen ones."""

    def on(side: Side) -> Estimate:
        return membership.auc(losses(comparison, side), comparison.weights, comparison.classes)

    return for_each_model(comparison, "membership_auc", on)


def forget_accuracy_gap(comparison: Comparison) -> Metric:
    """Measure accuracy on forget rows minus that on never-seen rows of the same classes."""

    def on(side: Side) -> Estimate:
        return accuracy.gap(comparison.pairs(side), comparison.weights)

    return for_each_model(comparison, "forget_accuracy_gap", on)


def true_positive_rate(comparison: Comparison, *, at: float) -> Metric:
    """Measure the true positive rate of the loss attack at a false positive rate ``at``."""
    matched = comparison.weights, comparison.classes

    def on(side: Side) -> tuple[Estimate, float]:
        pairs = losses(comparison, side)
        return membership.true_positive_rate(pairs, *matched, at=at)

    (after, realised), (before, control_realised) = on(unlearned), on(control)
    references = [on(reference(k))[0] for k in range(comparison.references)]
    return Metric(
        name=f"true_positive_rate_at_{at:g}",
        unlearned=after,
        control=before,
        reference=average(references) if references else None,
        rows=comparison.forget_rows,
        never_seen_rows=comparison.never_seen_rows,
        notes={
            "false_positive_rate": at,
            "realised_false_positive_rate": realised,
            "control_realised_false_positive_rate": control_realised,
        },
    )


def large_loss_shortfall(comparison: Comparison) -> Metric:
    """Measure the share of never-seen rows with the largest losses, less that of forget rows.

    The threshold is the never-seen rows' quantile at 1 − ``LARGE``, of each batch's own model.
    """
    matched = comparison.weights, comparison.classes

    def on(side: Side) -> Estimate:
        pairs = [(f.loss, u.loss) for f, u in comparison.pairs(side)]
        share, realised = membership.true_positive_rate(pairs, *matched, at=LARGE)
        low, high = share.bounds
        return replace(
            share,
            value=realised - share.value,
            forget=-share.forget,
            never_seen=-share.never_seen,
            bounds=(realised - high, realised - low),
        )

    return for_each_model(comparison, "large_loss_shortfall", on)


def version_difference_auc(comparison: Comparison) -> Metric:
    """Measure the AUC of loss_new - loss_old, an attack by someone who kept the previous version.

    Chen et al., "When machine unlearning jeopardizes privacy" (CCS 2021). Even a perfect removal
    shows here, because retraining changes exactly these rows. It is reported and not judged. An
    unchanged model shows .5 by definition.
    """

    def on(side: Side) -> Estimate:
        pairs = [
            (f.loss - old_f.loss, u.loss - old_u.loss)
            for (f, u), (old_f, old_u) in zip(
                comparison.pairs(side), comparison.pairs(control), strict=True
            )
        ]
        return membership.auc(pairs, comparison.weights, comparison.classes)

    metric = for_each_model(comparison, "version_difference_auc", on)
    return replace(metric, control=exactly(0.5, bounds=(0.0, 1.0)))


def retain_membership(evidence: Evidence) -> Metric | None:
    """Measure the membership AUC of retained rows, after minus before.

    Above 0 the update exposed them more.

    The control is 0 by definition. The references' value is how much retrained models expose the
    retained rows, if they were scored on them.
    """
    models = (evidence.unlearned, evidence.control, *evidence.references)
    new, old, *others = [_retained_as_forgotten(model) for model in models]
    if new is None or old is None or not len(new.forget):
        return None
    known = [other for other in others if other is not None]
    references = tuple(known) if len(known) == len(others) else ()
    comparison = matching.match([Evidence(new, old, references)])
    if comparison.forget_rows == 0:
        return None
    auc = membership_auc(comparison)
    assert auc.control is not None
    return replace(
        auc,
        name="retain_membership_change",
        unlearned=auc.unlearned.minus(auc.control),
        control=exactly(0.0),
        reference=None if auc.reference is None else auc.reference.minus(auc.control),
        rows_of="retain",
        notes={"after": auc.unlearned.value, "before": auc.control.value},
    )


def accuracy_drop(
    name: str,
    before: Scores,
    unlearned: Scores,
    *,
    control: Scores,
    references: Sequence[Scores] = (),
    rows_of: str,
) -> Metric | None:
    """Measure the accuracy lost from ``before`` to each model on the same rows, a share.

    ``before`` is the control itself, whose own loss is then 0 by definition, or the anchor;
    ``rows_of`` names the set of rows. None if there are no rows.
    """
    if len(unlearned) == 0:
        return None
    lost = [accuracy.drop(before, scores) for scores in references]
    return Metric(
        name=name,
        unlearned=accuracy.drop(before, unlearned),
        control=exactly(0.0) if before is control else accuracy.drop(before, control),
        reference=average(lost) if lost else None,
        rows=len(unlearned),
        rows_of=rows_of,
    )


def prediction_divergence(evidence: Evidence, which: str) -> Metric | None:
    """Measure the mean Jensen-Shannon divergence (bits) to the references on the rows of one set.

    ``reference`` is the mean between two references, and the band in the notes the smallest and
    largest between any two: the distance to a single retrain proves nothing without them. None if
    no probabilities were kept.
    """
    named = [m.sets().get(which) for m in (evidence.unlearned, evidence.control)]
    kept = [m.sets().get(which) for m in evidence.references]
    tables = [None if s is None else s.probabilities for s in (*named, *kept)]
    if not kept or any(t is None for t in tables) or tables[0] is None or not len(tables[0]):
        return None
    new, old, *others = [t for t in tables if t is not None]
    between = [
        divergence.jensen_shannon(a, b) for i, a in enumerate(others) for b in others[i + 1 :]
    ]
    return Metric(
        name=f"prediction_divergence_{which}",
        unlearned=_mean_row([divergence.jensen_shannon(new, o) for o in others]),
        control=_mean_row([divergence.jensen_shannon(old, o) for o in others]),
        reference=_mean_row(between) if between else None,
        rows=len(new),
        rows_of=which,
        notes={
            "references": len(others),
            "reference_band": band([float(np.mean(apart)) for apart in between]),
        },
    )


def class_accuracy(evidence: Evidence, name: str, pick: Callable[[ModelScores], Scores]) -> Metric:
    """Measure accuracy on the rows of a forgotten class that ``pick`` takes from scores."""
    references = [accuracy.accuracy(pick(m)) for m in evidence.references]
    return Metric(
        name=name,
        unlearned=accuracy.accuracy(pick(evidence.unlearned)),
        control=accuracy.accuracy(pick(evidence.control)),
        reference=average(references) if references else None,
        rows=len(pick(evidence.unlearned)),
    )


def unlearned(batch: Evidence) -> ModelScores:
    """Return the updated model's scores of a batch."""
    return batch.unlearned


def control(batch: Evidence) -> ModelScores:
    """Return the control's scores of a batch."""
    return batch.control


def reference(k: int) -> Side:
    """Return the function that selects the k-th reference's scores of a batch."""
    return lambda batch: batch.references[k]


def for_each_model(comparison: Comparison, name: str, on: Callable[[Side], Estimate]) -> Metric:
    """Return the metric ``name``: the estimates of ``on`` for the updated and all other models."""
    references = [on(reference(k)) for k in range(comparison.references)]
    return Metric(
        name=name,
        unlearned=on(unlearned),
        control=on(control),
        reference=average(references) if references else None,
        rows=comparison.forget_rows,
        never_seen_rows=comparison.never_seen_rows,
    )


def losses(comparison: Comparison, side: Side) -> list[membership.Pair]:
    """Return the loss attack's scores: a small loss is evidence of membership."""
    return [(-f.loss, -u.loss) for f, u in comparison.pairs(side)]


def band(values: Sequence[float]) -> list[float] | None:
    """Return the smallest and the largest value; None if there are none."""
    return [min(values), max(values)] if values else None


def _retained_as_forgotten(model: ModelScores) -> ModelScores | None:
    """Return scores with retained rows in place of the forgotten ones; None without them."""
    if model.retain is None:
        return None
    return ModelScores(forget=model.retain, audit=model.audit)


def _mean_row(tables: list[Floats]) -> Estimate:
    """Return the mean over rows of the mean over pairs of models."""
    values = np.mean(tables, axis=0)
    return accuracy.mean(values, bounds=(0.0, 1.0))
