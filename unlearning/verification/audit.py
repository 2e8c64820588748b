"""One verification: every metric for the updated model, its control and the references; a verdict.

The recipe: pair the scores, match never-seen rows to the forget rows, measure, judge, put it in
words and numbers that can be stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from unlearning.errors import WrongOptions
from unlearning.verification import accuracy, matching, membership, verdict
from unlearning.verification.drift import Drift
from unlearning.verification.estimates import Estimate, average
from unlearning.verification.gates import Gates
from unlearning.verification.matching import Comparison, Evidence
from unlearning.verification.scores import ModelScores, Scores
from unlearning.verification.verdict import Excess, Outcome, Verdict

Kind = Literal["records", "class"]

#: Below this many never-seen rows above its threshold, a true positive rate says nothing.
LEAST_ROWS_ABOVE_THRESHOLD = 5

DOES_NOT_SHOW = (
    "that no other attack would tell these rows from never-seen ones",
    "anything about copies of the rows, or of earlier versions, outside this service",
    "a differential-privacy or indistinguishability bound: every figure is an estimate",
)


@dataclass(frozen=True)
class Metric:
    """One measured quantity for the updated model, its control and the references' mean."""

    name: str
    unlearned: Estimate
    control: Estimate | None = None
    reference: Estimate | None = None
    rows: int = 0
    never_seen_rows: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verification:
    """What was measured and what it comes to."""

    kind: Kind
    verdict: Verdict
    outcomes: tuple[Outcome, ...]
    metrics: tuple[Metric, ...]
    sets: Mapping[str, Any]
    pooled: Mapping[str, Any]
    drift: Drift | None
    #: Reasons to retrain soon although nothing failed.
    retrain_because: tuple[str, ...]
    gates: Gates

    def outcome(self, gate: str) -> Outcome:
        """The outcome of one gate."""
        return next(o for o in self.outcomes if o.gate == gate)

    def metric(self, name: str) -> Metric:
        """One metric by its name."""
        return next(m for m in self.metrics if m.name == name)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, words and finite numbers; None where there is no value."""
        document = {
            "kind": self.kind,
            "verdict": str(self.verdict),
            "reasons": [o.reason for o in self.outcomes if o.outcome is self.verdict],
            "gates": [{**asdict(o), "outcome": str(o.outcome)} for o in self.outcomes],
            "metrics": {m.name: _metric(m, self.gates.confidence) for m in self.metrics},
            "sets": self.sets,
            "pooled": self.pooled,
            "drift": None if self.drift is None else _drift(self.drift),
            "retrain_because": list(self.retrain_because),
            "limits": asdict(self.gates),
            "does_not_show": list(DOES_NOT_SHOW),
        }
        plain: dict[str, Any] = _plain(document)
        return plain


def verify(
    unlearned: ModelScores,
    control: ModelScores,
    *,
    changed: bool,
    lineage_clean: bool,
    gates: Gates | None = None,
    kind: Kind = "records",
    references: Sequence[ModelScores] = (),
    earlier: Sequence[Evidence] = (),
    exact: bool = False,
    drift: Drift | None = None,
) -> Verification:
    """Measure one batch's updated model against its control and judge it by the policy's gates.

    ``unlearned`` and ``control`` (the version that the batch started from, which still holds the
    rows) and ``references`` (models trained without the rows) are scores on the same rows.
    ``earlier`` holds the stored evidence of earlier promoted batches of the same anchor; a batch
    smaller than ``gates.pool_below_rows`` is judged on removal together with them.

    ``changed``: the weights differ from the control's. ``lineage_clean``: neither the training rows
    nor any parent of the version still holds records whose deletion was completed, other than
    through the update under test. ``exact``: trained on the retained rows alone; a removal gate
    then never fails on statistics, because the lineage says more.
    """
    gates = gates or Gates()
    current = Evidence(unlearned, control, tuple(references))
    if kind == "class":
        metrics, removal = _class_removal(current, gates, exact)
        utility_rows = ~np.isin(unlearned.audit.label, np.unique(unlearned.forget.label))
        pooled = {"batches": 1, "rows": len(unlearned.forget), "unmatched_rows": 0}
    else:
        batches = [current, *(earlier if _small(unlearned, gates) else ())]
        comparison = matching.match(batches)
        metrics, removal = _record_removal(comparison, gates, exact)
        utility_rows = np.ones(len(unlearned.audit), dtype=np.bool_)
        pooled = {
            "batches": len(batches),
            "rows": comparison.forget_rows,
            "unmatched_rows": comparison.unmatched,
        }
    outcomes = (
        *_integrity(current, changed=changed, lineage_clean=lineage_clean),
        *_utility(current, utility_rows, gates),
        *removal,
    )
    return Verification(
        kind=kind,
        verdict=verdict.overall(outcomes),
        outcomes=outcomes,
        metrics=tuple(metrics),
        sets=_sets(current, gates),
        pooled=pooled,
        drift=drift,
        retrain_because=() if drift is None else drift.over_budget(gates),
        gates=gates,
    )


def _small(unlearned: ModelScores, gates: Gates) -> bool:
    return len(unlearned.forget) < gates.pool_below_rows


def _integrity(evidence: Evidence, *, changed: bool, lineage_clean: bool) -> list[Outcome]:
    finite = all(s.finite for s in evidence.unlearned.sets().values())
    return [
        verdict.fact(
            "changed",
            changed,
            reason="the weights differ from the base version's",
            otherwise="the weights did not change, so nothing was removed",
        ),
        verdict.fact(
            "lineage",
            lineage_clean,
            reason="no parent or training row of this version holds records already forgotten",
            otherwise="a parent or a training row of this version still holds forgotten records;"
            " start again from a version without them",
        ),
        verdict.fact(
            "finite",
            finite,
            reason="every loss is a finite number",
            otherwise="some losses are not finite numbers; the weights are unusable",
        ),
    ]


def _utility(evidence: Evidence, judged: np.ndarray[Any, Any], gates: Gates) -> list[Outcome]:
    new, old = evidence.unlearned, evidence.control
    outcomes = []
    if np.any(judged):
        lost = accuracy.drop(old.audit.take(judged), new.audit.take(judged))
        outcomes.append(
            verdict.utility("audit_accuracy", lost, limit=gates.audit_accuracy_drop, gates=gates)
        )
    if new.retain is not None and old.retain is not None and len(new.retain):
        lost = accuracy.drop(old.retain, new.retain)
        outcomes.append(
            verdict.utility("retain_accuracy", lost, limit=gates.retain_accuracy_drop, gates=gates)
        )
    return outcomes


def _record_removal(
    comparison: Comparison, gates: Gates, exact: bool
) -> tuple[list[Metric], list[Outcome]]:
    if comparison.forget_rows == 0:
        reason = "no forgotten row has never-seen rows of its class to be compared with"
        return [], [Outcome("membership", "removal", Verdict.NO_POWER, reason)]
    auc = _auc(comparison)
    gap = _gap(comparison)
    rate = _rate(comparison, 0.01)
    rare = _rate(comparison, 0.001)
    outcomes = [
        verdict.removal("membership", _auc_excess(auc, gates, exact), gates=gates),
        verdict.removal("forget_accuracy", _gap_excess(gap, gates, exact), gates=gates),
        _judge_rate(rate, gates, exact),
    ]
    return [auc, gap, rate, rare], outcomes


def _auc(comparison: Comparison) -> Metric:
    def on(side: matching.Side) -> Estimate:
        return membership.auc(_losses(comparison, side), comparison.weights)

    return _metric_of(comparison, "membership_auc", on)


def _losses(comparison: Comparison, side: matching.Side) -> list[membership.Pair]:
    """The loss attack's scores: a small loss speaks for membership."""
    return [(-f.loss, -u.loss) for f, u in comparison.pairs(side)]


def _metric_of(
    comparison: Comparison, name: str, on: Callable[[matching.Side], Estimate]
) -> Metric:
    references = [on(_reference(k)) for k in range(comparison.references)]
    return Metric(
        name=name,
        unlearned=on(_unlearned),
        control=on(_control),
        reference=average(references) if references else None,
        rows=comparison.forget_rows,
        never_seen_rows=comparison.never_seen_rows,
    )


def _gap(comparison: Comparison) -> Metric:
    def on(side: matching.Side) -> Estimate:
        return accuracy.gap(comparison.pairs(side), comparison.weights)

    return _metric_of(comparison, "forget_accuracy_gap", on)


def _rate(comparison: Comparison, at: float) -> Metric:
    def rates(side: matching.Side) -> tuple[Estimate, float]:
        pairs = _losses(comparison, side)
        return membership.true_positive_rate(pairs, comparison.weights, at=at)

    metric = _metric_of(comparison, f"true_positive_rate_at_{at:g}", lambda side: rates(side)[0])
    notes = {
        "false_positive_rate": at,
        "realised_false_positive_rate": rates(_unlearned)[1],
        "control_realised_false_positive_rate": rates(_control)[1],
    }
    return replace(metric, notes=notes)


def _auc_excess(metric: Metric, gates: Gates, exact: bool) -> Excess:
    assert metric.control is not None
    if metric.reference is None:
        return Excess(
            unlearned=metric.unlearned.shifted(-0.5),
            control=metric.control.shifted(-0.5),
            limit=gates.membership_auc,
            rows=metric.rows,
            what="the membership AUC",
            target=".5",
            exact=exact,
        )
    return Excess(
        unlearned=metric.unlearned.minus(metric.reference),
        control=metric.control.minus(metric.reference),
        limit=gates.membership_auc_to_reference,
        rows=metric.rows,
        what="the membership AUC",
        target=f"the references' {metric.reference.value:.3f}",
        exact=exact,
    )


def _gap_excess(metric: Metric, gates: Gates, exact: bool) -> Excess:
    assert metric.control is not None
    unlearned, control = metric.unlearned, metric.control
    target = "never-seen rows of the same classes"
    if metric.reference is not None:
        unlearned, control = unlearned.minus(metric.reference), control.minus(metric.reference)
        target = f"the references' {metric.reference.value:+.3f} against {target}"
    return Excess(
        unlearned=unlearned,
        control=control,
        limit=gates.forget_accuracy,
        rows=metric.rows,
        what="forget accuracy",
        target=target,
        exact=exact,
    )


def _judge_rate(metric: Metric, gates: Gates, exact: bool) -> Outcome:
    assert metric.control is not None
    at = float(metric.notes["false_positive_rate"])
    above = min(
        metric.notes["realised_false_positive_rate"],
        metric.notes["control_realised_false_positive_rate"],
    )
    gate = "true_positive_rate"
    if above * metric.never_seen_rows < LEAST_ROWS_ABOVE_THRESHOLD - 1e-9:
        reason = (
            f"of {metric.never_seen_rows} never-seen rows fewer than {LEAST_ROWS_ABOVE_THRESHOLD}"
            f" lie above the threshold for {at:.1%} false positives"
        )
        return Outcome(gate, "removal", Verdict.NO_POWER, reason)
    excess = Excess(
        unlearned=metric.unlearned.shifted(-at),
        control=metric.control.shifted(-at),
        limit=gates.true_positive_rate - at,
        rows=metric.rows,
        what=f"the true positive rate at {at:.1%} false positives",
        target=f"{at:.3f}",
        two_sided=False,
        exact=exact,
    )
    return verdict.removal(gate, excess, gates=gates)


def _class_removal(
    evidence: Evidence, gates: Gates, exact: bool
) -> tuple[list[Metric], list[Outcome]]:
    """Accuracy on the forgotten class, on its training rows and on its never-seen rows."""
    classes = np.unique(evidence.unlearned.forget.label)
    picks: dict[str, Callable[[ModelScores], Scores]] = {
        "class_accuracy": lambda m: m.forget,
        "class_accuracy_never_seen": lambda m: m.audit.take(np.isin(m.audit.label, classes)),
    }
    metrics, outcomes = [], []
    for name, pick in picks.items():
        if len(pick(evidence.unlearned)) == 0:
            continue
        metric = _class_metric(name, evidence, pick)
        metrics.append(metric)
        outcomes.append(verdict.removal(name, _class_excess(metric, gates, exact), gates=gates))
    return metrics, outcomes


def _class_metric(name: str, evidence: Evidence, pick: Callable[[ModelScores], Scores]) -> Metric:
    references = [accuracy.accuracy(pick(m)) for m in evidence.references]
    return Metric(
        name=name,
        unlearned=accuracy.accuracy(pick(evidence.unlearned)),
        control=accuracy.accuracy(pick(evidence.control)),
        reference=average(references) if references else None,
        rows=len(pick(evidence.unlearned)),
    )


def _class_excess(metric: Metric, gates: Gates, exact: bool) -> Excess:
    assert metric.control is not None
    unlearned, control, target = metric.unlearned, metric.control, "zero"
    if metric.reference is not None:
        unlearned, control = unlearned.minus(metric.reference), control.minus(metric.reference)
        target = f"the references' {metric.reference.value:.3f}"
    return Excess(
        unlearned=unlearned,
        control=control,
        limit=gates.class_accuracy,
        rows=metric.rows,
        what="accuracy on the forgotten class",
        target=target,
        two_sided=False,
        exact=exact,
    )


def _unlearned(batch: Evidence) -> ModelScores:
    return batch.unlearned


def _control(batch: Evidence) -> ModelScores:
    return batch.control


def _reference(k: int) -> matching.Side:
    return lambda batch: batch.references[k]


def _sets(evidence: Evidence, gates: Gates) -> dict[str, Any]:
    models = {"unlearned": evidence.unlearned, "control": evidence.control}
    for k, reference in enumerate(evidence.references, start=1):
        models[f"reference_{k}"] = reference
    return {
        name: {
            set_name: accuracy.describe(scores, confidence=gates.confidence)
            for set_name, scores in model.sets().items()
        }
        for name, model in models.items()
    }


def _metric(metric: Metric, confidence: float) -> dict[str, Any]:
    def side(estimate: Estimate | None) -> dict[str, Any] | None:
        if estimate is None:
            return None
        return {"value": estimate.value, "interval": list(estimate.interval(confidence))}

    return {
        **(side(metric.unlearned) or {}),
        "control": side(metric.control),
        "reference": side(metric.reference),
        "rows": metric.rows,
        "never_seen_rows": metric.never_seen_rows,
        **metric.notes,
    }


def _drift(drift: Drift) -> dict[str, Any]:
    return {
        **asdict(drift),
        "forgotten_share": drift.forgotten_share,
        "validation_loss_rise": drift.validation_loss_rise,
    }


def _plain(value: Any) -> Any:
    """JSON types only: NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    raise WrongOptions(f"a {type(value).__name__} cannot be stored as JSON")
