"""Attacks that compare a model with references, which never saw the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unlearning.verification.attacks import lira, membership
from unlearning.verification.measures import Metric, band, control, reference, unlearned
from unlearning.verification.statistics.estimates import Estimate, average
from unlearning.verification.statistics.matching import Comparison, Evidence, Side
from unlearning.verification.statistics.scores import Floats, ModelScores, Scores

#: Number of records that the likelihood-ratio attack names.
WORST_RECORDS = 10
#: Largest number of records whose scores it reports.
MOST_RECORDS = 1000


def membership_auc(comparison: Comparison) -> Metric:
    """Measure the AUC of the offline likelihood-ratio attack; references never saw the rows.

    The notes name the ten rows that look most like members and, with at least two references, the
    range of the attack's AUC when each reference in turn is attacked with the others.
    """

    def on(side: Side) -> Estimate:
        return membership.auc(_calibrated(comparison, side), comparison.weights, comparison.classes)

    count = comparison.references
    attacked = [_attacked_reference(comparison, k) for k in range(count)] if count > 1 else []
    per_record = _per_record(comparison)
    return Metric(
        name="calibrated_membership_auc",
        unlearned=on(unlearned),
        control=on(control),
        reference=average(attacked) if attacked else None,
        rows=comparison.forget_rows,
        never_seen_rows=comparison.never_seen_rows,
        notes={
            "references": count,
            "batches": len(comparison.batches),
            "reference_band": band([e.value for e in attacked]),
        },
        records={"worst_records": per_record[:WORST_RECORDS], "per_record": per_record},
    )


def rmia_auc(comparison: Comparison) -> Metric:
    """Measure the AUC of the robust membership attack, with never-seen rows as its population.

    It is a second calibrated attack, because a removal tuned against one may be visible to the
    other. With at least two references, each in turn is attacked with the others, as in the first.
    """

    def on(side: Side, *, without: int | None = None) -> Estimate:
        used = _references(comparison, without=without)
        pairs = [_robust_scores(batch, side, used) for batch in comparison.batches]
        return membership.auc(pairs, comparison.weights, comparison.classes)

    count = comparison.references
    attacked = [on(reference(k), without=k) for k in range(count)] if count > 1 else []
    return Metric(
        name="rmia_auc",
        unlearned=on(unlearned),
        control=on(control),
        reference=average(attacked) if attacked else None,
        rows=comparison.forget_rows,
        never_seen_rows=comparison.never_seen_rows,
        notes={
            "references": count,
            "batches": len(comparison.batches),
            "reference_band": band([e.value for e in attacked]),
        },
    )


def _calibrated(
    comparison: Comparison, side: Side, *, without: int | None = None
) -> list[membership.Pair]:
    """Return offline likelihood-ratio scores, with all references but ``without``."""
    used = _references(comparison, without=without)
    return [_batch_scores(batch, side, used) for batch in comparison.batches]


def _references(comparison: Comparison, *, without: int | None) -> list[Side]:
    return [reference(k) for k in range(comparison.references) if k != without]


def _batch_scores(batch: Evidence, side: Side, references: Sequence[Side]) -> membership.Pair:
    def distances(pick: Callable[[ModelScores], Scores]) -> Floats:
        outside = np.stack([lira.log_odds(pick(r(batch)).loss) for r in references])
        return lira.offline(lira.log_odds(pick(side(batch)).loss), outside, deviation=1.0)

    forget, never_seen = distances(lambda m: m.forget), distances(lambda m: m.audit)
    # Never-seen rows show how far a model without the row deviates from the references.
    deviation = float(np.std(never_seen)) or 1.0
    return forget / deviation, never_seen / deviation


def _robust_scores(batch: Evidence, side: Side, references: Sequence[Side]) -> membership.Pair:
    forget = np.stack([r(batch).forget.loss for r in references])
    never_seen = np.stack([r(batch).audit.loss for r in references])
    ours = side(batch)
    population = ours.audit.loss, never_seen
    return lira.rmia(ours.forget.loss, forget, *population), lira.rmia(*population, *population)


def _attacked_reference(comparison: Comparison, k: int) -> Estimate:
    return membership.auc(
        _calibrated(comparison, reference(k), without=k), comparison.weights, comparison.classes
    )


def _per_record(comparison: Comparison) -> list[dict[str, Any]]:
    """Return rows with their scores before and after the update, most member-like first."""
    after = np.concatenate([f for f, _ in _calibrated(comparison, unlearned)])
    before = np.concatenate([f for f, _ in _calibrated(comparison, control)])
    rows = np.concatenate([f.rows for f, _ in comparison.pairs(unlearned)])
    order = np.argsort(-after)[:MOST_RECORDS]
    return [
        {"row": int(rows[i]), "score": float(after[i]), "control": float(before[i])} for i in order
    ]
