"""Ask every installed gate about one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unlearning.verification import gates, pooling
from unlearning.verification.criteria import Criteria
from unlearning.verification.gates import (
    BatchGate,
    Gate,
    IntegrityGate,
    Need,
    RemovalGate,
    Subject,
    UtilityGate,
)
from unlearning.verification.measures import Metric
from unlearning.verification.verdict import Outcome, Question, Verdict

Judged = tuple[list[Metric], list[Outcome]]
Asked = tuple[list[Metric], list[Question]]

#: Largest share of the batch's rows, without never-seen rows of their classes, beside which a pass
#: of the others is one of the batch.
_LEFT_OUT = 0.1


def judge(subject: Subject, *, own: Subject | None, criteria: Criteria, exact: bool) -> Judged:
    """Return the metrics that the gates judge and their outcomes: facts, utility, removal.

    ``own`` is the current batch alone if ``subject`` pools others with it. A gate that lacks what
    it needs is left out. ``exact``: trained on the retained rows alone. If there is a proof of
    removal, the gates about removal only measure.
    """
    found = gates.installed()
    facts = [
        gate.outcome(subject)
        for gate in found
        if isinstance(gate, IntegrityGate) and not subject.missing(gate.needs)
    ]
    metrics, useful = _utility([g for g in found if isinstance(g, UtilityGate)], subject, criteria)
    about_removal = [g for g in found if isinstance(g, RemovalGate)]
    measured, removed = _removal(about_removal, subject, own, criteria, exact)
    tests = [g for g in found if isinstance(g, BatchGate)]
    figures, tested = _tested(tests, subject, criteria, exact and subject.kind == "records")
    if any(one.concern == "removal" for one in facts):
        removed, tested = [], []  # a proof decides, and the figures are reported only
    by_name = {gate.name: gate for gate in found}
    outcomes = [_declared(one, by_name[one.gate]) for one in facts + useful + removed + tested]
    return metrics + measured + figures, outcomes


def _declared(outcome: Outcome, gate: Gate) -> Outcome:
    """Return the outcome with what its gate declares."""
    outcome = replace(outcome, disclosure=gate.disclosure, metric=gate.metric)
    if isinstance(gate, RemovalGate | BatchGate):
        return replace(outcome, counts=gate.counts, precedence=gate.precedence)
    return outcome


def _utility(found: Sequence[UtilityGate], subject: Subject, criteria: Criteria) -> Judged:
    metrics, outcomes = [], []
    for gate in found:
        seen = subject.narrowed(gate.needs)
        metric = None if seen is None else gate.measured(seen)
        if metric is not None:
            metrics.append(metric)
            outcomes.append(gate.outcome(metric, criteria))
    return metrics, outcomes


def _tested(
    found: Sequence[BatchGate], subject: Subject, criteria: Criteria, exact: bool
) -> Judged:
    metrics, outcomes = [], []
    for gate in found:
        metric = None if subject.missing(gate.needs) else gate.measured(subject)
        if metric is not None:
            metrics.append(metric)
            outcomes.append(gate.outcome(metric, criteria, exact=exact))
    return metrics, outcomes


def _removal(
    found: Sequence[RemovalGate],
    subject: Subject,
    own: Subject | None,
    criteria: Criteria,
    exact: bool,
) -> Judged:
    metrics, questions = _asked(found, subject, criteria, exact)
    if own is None:
        outcomes = [question.answer(criteria) for question in questions]
    else:
        rows = own.comparison.forget_rows
        alone = _asked(found, own, criteria, exact)[1] if rows else []
        outcomes = pooling.settle(questions, alone, rows=rows, criteria=criteria)
    by_class = {gate.name for gate in found if Need.NEVER_SEEN_ROWS in gate.needs}
    return metrics, [
        _of_the_batch(one, subject) if one.gate in by_class else one for one in outcomes
    ]


def _of_the_batch(outcome: Outcome, subject: Subject) -> Outcome:
    """Return the outcome; no power for a pass if too many of the batch's rows were left out."""
    label = subject.evidence.unlearned.forget.label
    compared = subject.comparison.classes[0] if subject.comparison.forget_rows else label[:0]
    left_out = int(np.sum(~np.isin(label, compared)))
    if outcome.outcome is not Verdict.PASSED or left_out <= _LEFT_OUT * len(label):
        return outcome
    others = f"{left_out} of the batch's {len(label)} rows have too few never-seen rows alike"
    reason = f"{outcome.reason}; but a pass would not be theirs: {others}"
    return replace(outcome, outcome=Verdict.NO_POWER, tells=False, reason=reason)


def _asked(
    found: Sequence[RemovalGate], subject: Subject, criteria: Criteria, exact: bool
) -> Asked:
    """Return what each gate judges and asks.

    Lineage does not excuse a failure on a class: a model trained without the class does not
    recognise it.
    """
    metrics, questions = [], []
    for gate in found:
        if subject.missing(gate.needs) == {Need.NEVER_SEEN_ROWS}:
            questions.append(gate.unanswerable())
            continue
        seen = subject.narrowed(gate.needs)
        metric = None if seen is None else gate.measured(seen)
        if metric is not None:
            metrics.append(metric)
            excused = exact and subject.kind == "records"
            questions.append(gate.ask(metric, criteria, exact=excused))
    return metrics, questions
