"""One verification: pair the scores, match never-seen rows, measure, judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unlearning.errors import WrongOptions
from unlearning.verification import curves, described, judging, verdict
from unlearning.verification.attacks.probe import ClassProbe
from unlearning.verification.attacks.refit import Refit
from unlearning.verification.attacks.relearn import RelearnTime
from unlearning.verification.criteria import Criteria
from unlearning.verification.drift import Drift
from unlearning.verification.gates import Subject, audited
from unlearning.verification.measures import Metric
from unlearning.verification.report import Verification
from unlearning.verification.statistics import accuracy, matching
from unlearning.verification.statistics.matching import Evidence
from unlearning.verification.statistics.outside import Outside
from unlearning.verification.statistics.scores import ModelScores, Scores
from unlearning.verification.verdict import Kind


def verify(
    unlearned: ModelScores,
    control: ModelScores,
    *,
    changed: bool,
    lineage_clean: bool,
    criteria: Criteria | None = None,
    kind: Kind = "records",
    references: Sequence[ModelScores] = (),
    earlier: Sequence[Evidence] = (),
    anchor_audit: Scores | None = None,
    exact: bool = False,
    drift: Drift | None = None,
    relearn: RelearnTime | None = None,
    refit: Refit | None = None,
    probe: ClassProbe | None = None,
    reference_share: float = 1.0,
    outside: Outside | None = None,
    certificate: Mapping[str, Any] | None = None,
) -> Verification:
    """Measure one batch's updated model against its control and let the installed gates judge it.

    ``unlearned`` and ``control`` (the version that the batch started from, which still holds the
    rows) and ``references`` (models trained without the rows) are scores on the same rows.
    ``earlier`` holds the stored evidence of earlier promoted batches of the same anchor, newest
    first, with the ``chain`` of their verifications; a batch
    smaller than ``criteria.pool_below_rows`` is judged on removal together with them, the
    calibrated attacks on those batches that have references.
    ``anchor_audit``, the anchor's scores on its audit rows, adds a gate against losses that
    accumulate over many batches, each within its own limit.

    ``changed``: the weights differ from the control's. ``lineage_clean``: neither the training rows
    nor any parent of the version still holds records whose deletion was completed, except for the
    update under test. ``exact``: trained on the retained rows alone; a gate about records then
    never fails on statistics, because the lineage is stronger evidence.

    ``reference_share``: share of the retained rows that each reference was trained on; below 1
    their accuracy and divergence are those of weaker models, and a note says so.

    ``relearn``, ``refit`` and, of a forgotten class, ``probe`` are the results of attacks on the
    two models, for which gates exist.

    ``outside``: margins of the rows under models that were not trained on them.

    ``certificate``: what the method gave to prove that its weights are those of a fit without the
    rows. It decides about removal in place of every statistic.

    Raise ``WrongOptions`` if there are no forget rows.
    """
    criteria = criteria or Criteria()
    if len(unlearned.forget) == 0:
        raise WrongOptions("there are no forget rows to verify; a batch needs at least one")
    current = Evidence(unlearned, control, tuple(references), outside)
    small = kind == "records" and len(unlearned.forget) < criteria.pool_below_rows
    batches = [current, *(earlier if small else ())]
    subject = Subject(
        kind=kind,
        evidence=current,
        comparison=matching.match(batches),
        anchor_audit=anchor_audit,
        changed=changed,
        lineage_clean=lineage_clean,
        certificate=certificate,
        refit=refit,
        relearn=relearn,
        probe=probe,
        before=next((batch.chain for batch in earlier if batch.chain is not None), None),
    )
    own = replace(subject, comparison=matching.match([current])) if len(batches) > 1 else None
    metrics, outcomes = judging.judge(subject, own=own, criteria=criteria, exact=exact)
    metrics += described.metrics(subject)
    return Verification(
        kind=kind,
        verdict=verdict.overall(outcomes),
        outcomes=tuple(outcomes),
        metrics=tuple(_with_share(m, reference_share) for m in metrics),
        sets=_sets(subject, criteria),
        pooled=_pooled(subject, batches),
        criteria=criteria,
        drift=drift,
        relearn=relearn,
        attack_curve=curves.attack_curve(subject.comparison) if kind == "records" else None,
        certificate=certificate,
        chain=subject.chain if kind == "records" else None,
        retrain_because=() if drift is None else drift.over_budget(criteria),
    )


def _pooled(subject: Subject, batches: Sequence[Evidence]) -> dict[str, int]:
    """Return the numbers of batches and rows that the removal gates use."""
    sizes = [len(batch.unlearned.forget) for batch in batches]
    if subject.kind == "class":
        return {"batches": 1, "rows": sizes[0], "unmatched_rows": 0, "smallest_batch": sizes[0]}
    compared = subject.comparison
    return {
        "batches": len(batches),
        "rows": compared.forget_rows,
        "unmatched_rows": compared.unmatched,
        "smallest_batch": min(sizes),
    }


def _with_share(metric: Metric, share: float) -> Metric:
    """Return the metric with a note if it depends on references that saw fewer rows."""
    depends = metric.reference is not None or "references" in metric.notes
    if share >= 1 or not depends:
        return metric
    return replace(metric, notes={**metric.notes, "reference_training_share": share})


def _sets(subject: Subject, criteria: Criteria) -> dict[str, Any]:
    """Return the figures of each model on each set; a forgotten class is no part of audit rows.

    The ledger knows which rows are left in a set, and shows figures by how many those are.
    """
    evidence = subject.evidence
    models = {"unlearned": evidence.unlearned, "control": evidence.control}
    for k, reference in enumerate(evidence.references, start=1):
        models[f"reference_{k}"] = reference
    return {
        name: {
            set_name: accuracy.describe(scores, confidence=criteria.confidence)
            for set_name, scores in (model.sets() | {"audit": audited(subject, model)}).items()
        }
        for name, model in models.items()
    }
