"""One verification: pair the scores, match never-seen rows, measure, judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unlearning.errors import WrongOptions
from unlearning.verification import accuracy, matching, measures, removal, verdict
from unlearning.verification.drift import Drift
from unlearning.verification.gates import Gates
from unlearning.verification.matching import Evidence
from unlearning.verification.relearn import RelearnTime
from unlearning.verification.report import Kind, Verification
from unlearning.verification.scores import Booleans, ModelScores, Scores
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
) -> Verification:
    """Measure one batch's updated model against its control and judge it by the policy's gates.

    ``unlearned`` and ``control`` (the version that the batch started from, which still holds the
    rows) and ``references`` (models trained without the rows) are scores on the same rows.
    ``earlier`` holds the stored evidence of earlier promoted batches of the same anchor; a batch
    smaller than ``gates.pool_below_rows`` is judged on removal together with them, and with
    references only where every one of them has as many.
    ``anchor_audit``, the anchor's scores on its audit rows, adds a gate against losses that creep
    in over many batches, each within its own limit.

    ``changed``: the weights differ from the control's. ``lineage_clean``: neither the training rows
    nor any parent of the version still holds records whose deletion was completed, other than
    through the update under test. ``exact``: trained on the retained rows alone; a removal gate
    then never fails on statistics, because the lineage says more.
    """
    gates = gates or Gates()
    if len(unlearned.forget) == 0:
        raise WrongOptions("there are no forget rows to verify; a batch needs at least one")
    current = Evidence(unlearned, control, tuple(references))
    if kind == "class":
        metrics, removed = removal.classes(current, gates=gates, exact=exact)
        pooled = {"batches": 1, "rows": len(unlearned.forget), "unmatched_rows": 0}
    else:
        small = len(unlearned.forget) < gates.pool_below_rows
        batches = [current, *(earlier if small else ())]
        comparison = matching.match(batches)
        metrics, removed = removal.records(comparison, gates=gates, exact=exact)
        pooled = {
            "batches": len(batches),
            "rows": comparison.forget_rows,
            "unmatched_rows": comparison.unmatched,
        }
    described = [
        measures.retain_membership(current),
        measures.prediction_divergence(current, "forget"),
        measures.prediction_divergence(current, "audit"),
    ]
    outcomes = (
        *_integrity(unlearned, changed=changed, lineage_clean=lineage_clean),
        *_utility(current, _judged(current, kind), anchor_audit, gates),
        *removed,
    )
    return Verification(
        kind=kind,
        verdict=verdict.overall(outcomes),
        outcomes=outcomes,
        metrics=(*metrics, *(m for m in described if m is not None)),
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


def _utility(
    evidence: Evidence, judged: Booleans, anchor_audit: Scores | None, gates: Gates
) -> list[Outcome]:
    new, old = evidence.unlearned, evidence.control
    audit = new.audit.take(judged)
    outcomes = [
        _drop("audit_accuracy", old.audit.take(judged), audit, gates.audit_accuracy_drop, gates)
    ]
    if new.retain is not None and old.retain is not None:
        limit = gates.retain_accuracy_drop
        outcomes.append(_drop("retain_accuracy", old.retain, new.retain, limit, gates))
    if anchor_audit is not None:
        limit = gates.audit_accuracy_drop_since_anchor
        before, after = _common(anchor_audit, audit)
        outcomes.append(_drop("audit_accuracy_since_anchor", before, after, limit, gates))
    return [o for o in outcomes if o is not None]


def _drop(gate: str, before: Scores, after: Scores, limit: float, gates: Gates) -> Outcome | None:
    if len(after) == 0:
        return None
    return verdict.utility(gate, accuracy.drop(before, after), limit=limit, gates=gates)


def _common(before: Scores, after: Scores) -> tuple[Scores, Scores]:
    """Both on the rows that they share, in the same order."""
    _, first, second = np.intersect1d(before.rows, after.rows, return_indices=True)
    return before.take(first), after.take(second)


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
