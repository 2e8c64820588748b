"""One verification: pair the scores, match never-seen rows, measure, judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unlearning.errors import WrongOptions
from unlearning.verification import accuracy, matching, measures, removal, verdict
from unlearning.verification.drift import Drift
from unlearning.verification.gates import Gates
from unlearning.verification.matching import Evidence
from unlearning.verification.measures import Metric
from unlearning.verification.relearn import RelearnTime
from unlearning.verification.report import Kind, Verification
from unlearning.verification.scores import Booleans, Integers, ModelScores, Scores
from unlearning.verification.verdict import Outcome


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
    anchor_audit: Scores | None = None,
    exact: bool = False,
    drift: Drift | None = None,
    relearn: RelearnTime | None = None,
    reference_share: float = 1.0,
) -> Verification:
    """Measure one batch's updated model against its control and judge it by the policy's gates.

    ``unlearned`` and ``control`` (the version that the batch started from, which still holds the
    rows) and ``references`` (models trained without the rows) are scores on the same rows.
    ``earlier`` holds the stored evidence of earlier promoted batches of the same anchor; a batch
    smaller than ``gates.pool_below_rows`` is judged on removal together with them, the calibrated
    attacks on those batches that have references.
    ``anchor_audit``, the anchor's scores on its audit rows, adds a gate against losses that creep
    in over many batches, each within its own limit.

    ``changed``: the weights differ from the control's. ``lineage_clean``: neither the training rows
    nor any parent of the version still holds records whose deletion was completed, other than
    through the update under test. ``exact``: trained on the retained rows alone; a gate about
    records then never fails on statistics, because the lineage says more.

    ``reference_share``: how much of the retained rows each reference was trained on; with less
    than all of them their accuracy and divergence are those of weaker models, and a note says so.
    """
    gates = gates or Gates()
    if len(unlearned.forget) == 0:
        raise WrongOptions("there are no forget rows to verify; a batch needs at least one")
    current = Evidence(unlearned, control, tuple(references))
    if kind == "class":
        metrics, removed = removal.classes(current, gates=gates)
        pooled = {"batches": 1, "rows": len(unlearned.forget), "unmatched_rows": 0}
    else:
        small = len(unlearned.forget) < gates.pool_below_rows
        batches = [current, *(earlier if small else ())]
        comparison = matching.match(batches)
        own = matching.match([current]) if len(batches) > 1 else None
        metrics, removed = removal.records(comparison, gates=gates, exact=exact, own=own)
        pooled = {
            "batches": len(batches),
            "rows": comparison.forget_rows,
            "unmatched_rows": comparison.unmatched,
        }
    drops = _drops(current, _judged(current, kind), anchor_audit)
    described = [
        measures.retain_membership(current),
        measures.prediction_divergence(current, "forget"),
        measures.prediction_divergence(current, "audit"),
    ]
    outcomes = (
        *_integrity(unlearned, changed=changed, lineage_clean=lineage_clean),
        *(_utility(drop, gates) for drop in drops),
        *removed,
    )
    metrics += [*drops, *(m for m in described if m is not None)]
    return Verification(
        kind=kind,
        verdict=verdict.overall(outcomes),
        outcomes=outcomes,
        metrics=tuple(_with_share(m, reference_share) for m in metrics),
        sets=_sets(current, gates),
        pooled=pooled,
        gates=gates,
        drift=drift,
        relearn=relearn,
        retrain_because=() if drift is None else drift.over_budget(gates),
    )


def _judged(evidence: Evidence, kind: Kind) -> Booleans:
    """Audit rows that utility is judged on: all, but for a forgotten class."""
    audit, forget = evidence.unlearned.audit, evidence.unlearned.forget
    if kind == "class":
        return ~np.isin(audit.label, np.unique(forget.label))
    return np.ones(len(audit), dtype=np.bool_)


def _integrity(unlearned: ModelScores, *, changed: bool, lineage_clean: bool) -> list[Outcome]:
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
            all(s.finite for s in unlearned.sets().values()),
            reason="every loss is a finite number",
            otherwise="some losses are not finite numbers; the weights are unusable",
        ),
    ]


def _drops(evidence: Evidence, judged: Booleans, anchor_audit: Scores | None) -> list[Metric]:
    """Accuracy lost on each set that utility is judged on and that has rows."""
    new, old = evidence.unlearned, evidence.control
    audit, before = new.audit.take(judged), old.audit.take(judged)
    others = [model.audit.take(judged) for model in evidence.references]
    drops = [
        measures.accuracy_drop(
            "audit_accuracy_drop", before, audit, control=before, references=others
        )
    ]
    if new.retain is not None and old.retain is not None:
        scored = [m.retain for m in evidence.references if m.retain is not None]
        drops.append(
            measures.accuracy_drop(
                "retain_accuracy_drop",
                old.retain,
                new.retain,
                control=old.retain,
                references=scored if len(scored) == len(others) else (),
            )
        )
    if anchor_audit is not None:
        rows = np.intersect1d(anchor_audit.rows, audit.rows)
        drops.append(
            measures.accuracy_drop(
                "audit_accuracy_drop_since_anchor",
                _at(anchor_audit, rows),
                _at(audit, rows),
                control=_at(before, rows),
                references=[_at(other, rows) for other in others],
            )
        )
    return [drop for drop in drops if drop is not None]


def _utility(drop: Metric, gates: Gates) -> Outcome:
    """A limit has the name of its metric; its gate is called by what may drop."""
    gate, limit = drop.name.replace("_drop", ""), getattr(gates, drop.name)
    return verdict.utility(gate, drop.unlearned, limit=limit, gates=gates)


def _at(scores: Scores, rows: Integers) -> Scores:
    """The scores of these rows, in this order."""
    return scores.take(np.intersect1d(scores.rows, rows, return_indices=True)[1])


def _with_share(metric: Metric, share: float) -> Metric:
    """A note where a figure depends on references that know fewer rows than the model."""
    depends = metric.reference is not None or "references" in metric.notes
    if share >= 1 or not depends:
        return metric
    return replace(metric, notes={**metric.notes, "reference_training_share": share})


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
