"""The result of a verification in a form that can be stored, signed and read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unlearning.errors import WrongOptions
from unlearning.verification import limits
from unlearning.verification.attacks.relearn import RelearnTime
from unlearning.verification.criteria import Criteria
from unlearning.verification.drift import Drift
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.chain import Chain
from unlearning.verification.statistics.estimates import Estimate
from unlearning.verification.verdict import Counts, Kind, Outcome, Verdict

DOES_NOT_SHOW = (
    "that no other attack would tell these rows from never-seen ones",
    "anything about copies of the rows, or of earlier versions, outside this service",
    "a differential-privacy or indistinguishability bound: every figure is an estimate",
)

#: Further limitations of a verification of a forgotten class.
CLASS_DOES_NOT_SHOW = (
    "that what was learned about the class is gone from the weights: a model that only keeps the"
    " class out of its answers satisfies the gates as well",
)


@dataclass(frozen=True)
class Verification:
    """Measurements and verdict."""

    kind: Kind
    verdict: Verdict
    outcomes: tuple[Outcome, ...]
    metrics: tuple[Metric, ...]
    #: Accuracy and loss of every model on every set, overall and per class.
    sets: Mapping[str, Any]
    #: Numbers of batches and rows that the removal gates used.
    pooled: Mapping[str, Any]
    criteria: Criteria
    drift: Drift | None = None
    relearn: RelearnTime | None = None
    #: Points of the loss attack's curve (``curves``); None for a class, or of few rows.
    attack_curve: Mapping[str, Any] | None = None
    #: The proof of removal, if the method gave one.
    certificate: Mapping[str, Any] | None = None
    #: The evidence of the chain with this batch, to be stored for the next; never reported.
    chain: Chain | None = None
    #: Reasons to retrain soon although nothing failed.
    retrain_because: tuple[str, ...] = ()

    def outcome(self, gate: str) -> Outcome:
        """Return the outcome of one gate."""
        return next(o for o in self.outcomes if o.gate == gate)

    def metric(self, name: str) -> Metric:
        """Return one metric by its name."""
        return next(m for m in self.metrics if m.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return JSON with finite numbers only; None if there is no value."""
        document = {
            "kind": self.kind,
            "verdict": str(self.verdict),
            "reasons": self._reasons(),
            "gates": [_outcome(o) for o in self.outcomes],
            "metrics": {m.name: _metric(m, self.criteria.confidence) for m in self.metrics},
            "sets": self.sets,
            "pooled": self.pooled,
            "drift": None if self.drift is None else _drift(self.drift),
            "relearn_time": None if self.relearn is None else _relearn(self.relearn),
            "attack_curve": self.attack_curve,
            "certificate": self.certificate,
            "retrain_because": self.retrain_because,
            "limits": limits.values(self.criteria),
            "does_not_show": DOES_NOT_SHOW + (CLASS_DOES_NOT_SHOW if self.kind == "class" else ()),
            "disclosure": self._disclosure(),
        }
        plain: dict[str, Any] = _plain(document)
        return plain

    def _reasons(self) -> list[str]:
        """Return the reasons of the gates that decided the verdict."""
        decided = [o for o in self.outcomes if o.outcome is self.verdict]
        if self.verdict is not Verdict.FAILED:
            decided = [
                o for o in decided if o.concern == "removal" and o.counts is not Counts.CHECK
            ]
        return [f"{o.gate}: {o.reason}" for o in decided]

    def _disclosure(self) -> dict[str, Any]:
        """Return who may read the figures of each metric and the reason of each gate."""
        return {
            "metrics": {
                m.name: {
                    "disclosure": str(m.disclosure),
                    "rows_of": m.rows_of,
                    "notes": sorted(m.notes),
                }
                for m in self.metrics
            },
            "gates": {
                o.gate: {"disclosure": str(o.disclosure), "metric": o.metric} for o in self.outcomes
            },
        }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "gate": outcome.gate,
        "concern": outcome.concern,
        "outcome": str(outcome.outcome),
        "reason": outcome.reason,
        # From which the verdict follows; service/audit_agreement.py checks that it does.
        "tells": outcome.tells,
        "counts": str(outcome.counts),
        "precedence": outcome.precedence,
    }


def _metric(metric: Metric, confidence: float) -> dict[str, Any]:
    def side(estimate: Estimate | None) -> dict[str, Any] | None:
        if estimate is None:
            return None
        return {"value": estimate.value, "interval": estimate.interval(confidence)}

    return {
        **(side(metric.unlearned) or {}),
        "control": side(metric.control),
        "reference": side(metric.reference),
        "rows": metric.rows,
        "never_seen_rows": metric.never_seen_rows,
        **metric.notes,
        **metric.records,
    }


def _drift(drift: Drift) -> dict[str, Any]:
    return {
        **asdict(drift),
        "forgotten_share": drift.forgotten_share,
        "validation_loss_rise": drift.validation_loss_rise,
    }


def _relearn(relearn: RelearnTime) -> dict[str, Any]:
    return {
        "rows": relearn.rows,
        "forget_steps": relearn.forget_steps,
        "never_seen_steps": relearn.never_seen_steps,
        "ratio": relearn.ratio,
        "control": None if relearn.control is None else _relearn(relearn.control),
        "references": [_relearn(reference) for reference in relearn.references],
    }


def _plain(value: Any) -> Any:
    """Return JSON types only: NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    raise WrongOptions(f"a {type(value).__name__} cannot be stored as JSON")
