"""The interface of a gate: its declaration, and the subject that it examines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from unlearning.errors import WrongOptions
from unlearning.verification import verdict
from unlearning.verification.attacks import excess
from unlearning.verification.attacks.excess import Sample
from unlearning.verification.attacks.probe import ClassProbe
from unlearning.verification.attacks.refit import Refit
from unlearning.verification.attacks.relearn import RelearnTime
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.disclosure import Disclosure
from unlearning.verification.measures import Metric
from unlearning.verification.statistics import exchange, matching
from unlearning.verification.statistics.chain import Chain
from unlearning.verification.statistics.estimates import Estimate
from unlearning.verification.statistics.matching import Comparison, Evidence
from unlearning.verification.statistics.scores import Booleans, ModelScores, Scores
from unlearning.verification.verdict import (
    Concern,
    Counts,
    Excess,
    Finding,
    Kind,
    Outcome,
    Question,
)

NO_ROWS_ALIKE = (
    f"no forgotten row has the {matching.LEAST_OF_A_CLASS} never-seen rows of its class that a"
    " comparison needs"
)


class Need(StrEnum):
    """What must exist for a gate to be included."""

    #: Records, and not a class, are forgotten.
    RECORDS = "records"
    #: A class is forgotten.
    CLASS = "class"
    #: Never-seen rows of the forgotten rows' classes. Without them the gate has no power.
    NEVER_SEEN_ROWS = "never_seen_rows"
    #: Models trained without the forgotten rows.
    REFERENCES = "references"
    #: Scores on retained rows.
    RETAINED_ROWS = "retained_rows"
    #: The anchor's scores on never-seen rows.
    ANCHOR = "anchor"
    #: Margins of the rows under models that were not trained on them.
    MARGINS = "margins"
    #: A proof that the weights are those of a fit without the rows.
    CERTIFICATE = "certificate"
    #: Scores on validation rows.
    VALIDATION_ROWS = "validation_rows"
    #: Answers of a last layer that was refitted to retained rows.
    REFIT = "refit"
    #: Steps in which forgotten and never-seen rows are relearned.
    RELEARNING = "relearning"
    #: A linear probe of the hidden layers for a forgotten class.
    PROBE = "probe"


class Direction(StrEnum):
    """On which side of its target a figure fails."""

    #: Above the limit.
    AT_MOST = "at_most"
    #: Farther from the target than the limit, on either side.
    WITHIN = "within"
    #: There is no figure, only a fact.
    HOLDS = "holds"


@dataclass(frozen=True)
class Subject:
    """The batch under test, as a gate sees it."""

    kind: Kind
    #: Scores of the updated model, its control and the references, of this batch alone.
    evidence: Evidence
    #: Forget rows, pooled with those of earlier batches, with never-seen rows of their classes.
    comparison: Comparison
    #: The anchor's scores on its never-seen rows; None if they are not known.
    anchor_audit: Scores | None = None
    #: The weights differ from the control's.
    changed: bool = True
    #: No parent and no training row still holds records that were forgotten before.
    lineage_clean: bool = True
    #: What the method gave to prove that its weights are those of a fit without the rows.
    certificate: Mapping[str, Any] | None = None
    #: What attacks on the models themselves found, where they were made.
    refit: Refit | None = None
    relearn: RelearnTime | None = None
    probe: ClassProbe | None = None
    #: The evidence of the chain before this batch.
    before: Chain | None = None

    @property
    def judged(self) -> Booleans:
        """Return which never-seen rows judge utility, (n_u,) bool: none of a forgotten class."""
        audit, forget = self.evidence.unlearned.audit, self.evidence.unlearned.forget
        if self.kind == "class":
            return ~np.isin(audit.label, np.unique(forget.label))
        return np.ones(len(audit), dtype=np.bool_)

    @cached_property
    def excess(self) -> tuple[Sample, Sample] | None:
        """Return the calibrated excess of the batch's own rows under the updated model and control.

        None where too few margins are known.
        """
        evidence = self.evidence
        if evidence.outside is None:
            return None
        after, before = (
            excess.sample(model, evidence.outside, control=evidence.control)
            for model in (evidence.unlearned, evidence.control)
        )
        return None if after is None or before is None else (after, before)

    @cached_property
    def chain(self) -> Chain | None:
        """Return the evidence of the chain with this batch; None where no margins are known."""
        if self.excess is None:
            return None
        after, _ = self.excess
        return (self.before or Chain.begun()).followed_by(exchange.log_e_value(after.exchange))

    def missing(self, needs: frozenset[Need]) -> frozenset[Need]:
        """Return those of ``needs`` that are missing."""
        scored = (self.evidence.unlearned.retain, self.evidence.control.retain)
        there = {
            Need.RECORDS: self.kind == "records",
            Need.CLASS: self.kind == "class",
            Need.NEVER_SEEN_ROWS: self.comparison.forget_rows > 0,
            Need.REFERENCES: bool(self.evidence.references)
            or any(batch.references for batch in self.comparison.batches),
            Need.RETAINED_ROWS: None not in scored,
            Need.ANCHOR: self.anchor_audit is not None,
            Need.MARGINS: self.evidence.outside is not None,
            Need.CERTIFICATE: self.certificate is not None,
            Need.VALIDATION_ROWS: None
            not in (self.evidence.unlearned.calibration, self.evidence.control.calibration),
            Need.REFIT: self.refit is not None,
            Need.RELEARNING: self.relearn is not None,
            Need.PROBE: self.probe is not None,
        }
        return frozenset(need for need in needs if not there[need])

    def narrowed(self, needs: frozenset[Need]) -> Subject | None:
        """Return the subject that a gate with these needs may see; None if it lacks some.

        Of pooled batches, a gate that needs references sees those that have some.
        """
        if self.missing(needs):
            return None
        if not {Need.REFERENCES, Need.NEVER_SEEN_ROWS} <= needs:
            return self
        known = self.comparison.with_references()
        return None if known is None else replace(self, comparison=known)


@dataclass(frozen=True, kw_only=True)
class Gate(ABC):
    """One condition of a promotion: its question, its figure, and who may read the answer."""

    concern: ClassVar[Concern]

    name: str
    #: The question, in one sentence.
    question: str
    #: Limits that a policy may set; a gate about a fact has none.
    limits: tuple[Limit, ...] = ()
    #: Name of the metric that it judges; None if it judges a fact.
    metric: str | None = None
    needs: frozenset[Need] = frozenset()
    direction: Direction = Direction.HOLDS
    #: Who may read its figure and its reason.
    disclosure: Disclosure = Disclosure.FEW_ROWS

    @abstractmethod
    def measured(self, subject: Subject) -> Metric | None:
        """Return the figure that the gate judges; None if there is nothing to judge."""

    def _checked(self, metric: Metric | None) -> Metric | None:
        """Return the metric with the gate's disclosure; raise ``WrongOptions`` for another name."""
        if metric is None:
            return None
        if metric.name != self.metric:
            raise WrongOptions(
                f"the gate {self.name} says that it judges {self.metric} and measured {metric.name}"
            )
        return replace(metric, disclosure=self.disclosure)


@dataclass(frozen=True, kw_only=True)
class IntegrityGate(Gate):
    """A gate about a fact, which is known and not estimated."""

    concern: ClassVar[Concern] = "integrity"

    holds: Callable[[Subject], bool]
    #: The reasons if the fact holds, and if it does not.
    reason: str
    otherwise: str
    disclosure: Disclosure = Disclosure.PUBLIC

    def measured(self, subject: Subject) -> Metric | None:
        """Return None: a fact has no figure."""
        return None

    def outcome(self, subject: Subject) -> Outcome:
        """Return passed if the fact holds, else failed."""
        return verdict.fact(
            self.name,
            self.holds(subject),
            reason=self.reason,
            otherwise=self.otherwise,
            concern=self.concern,
        )


@dataclass(frozen=True, kw_only=True)
class ProofGate(IntegrityGate):
    """A gate about a proof of removal; where it has one, no statistic decides about removal."""

    concern: ClassVar[Concern] = "removal"


@dataclass(frozen=True, kw_only=True)
class UtilityGate(Gate):
    """A gate about lost accuracy, judged by the first of its limits."""

    concern: ClassVar[Concern] = "utility"

    #: Accuracy lost on the same rows, a share.
    measure: Callable[[Subject], Metric | None]
    direction: Direction = Direction.AT_MOST
    #: Set of rows on which a retrained version is compared with the live one by this limit.
    compares: str | None = None

    def measured(self, subject: Subject) -> Metric | None:
        """Return the accuracy lost; None if there are no rows to measure it on."""
        return self._checked(self.measure(subject))

    def outcome(self, metric: Metric, criteria: Criteria) -> Outcome:
        """Return passed or failed if the interval of the loss lies on one side of the limit."""
        limit = criteria.limit(self.limits[0])
        return verdict.utility(self.name, metric.unlearned, limit=limit, criteria=criteria)


@dataclass(frozen=True, kw_only=True)
class RemovalGate(Gate):
    """A gate about traces of forgotten rows, judged by what remains of the control's excess."""

    concern: ClassVar[Concern] = "removal"

    measure: Callable[[Subject], Metric | None]
    #: The excess of both models over the target; or why this metric cannot tell.
    excess: Callable[[Metric, Criteria], Excess | str]
    #: What a pass counts for, and which membership gate decides where several can tell.
    counts: Counts = Counts.SUPPORT
    precedence: int = 0

    def measured(self, subject: Subject) -> Metric | None:
        """Return the figure for the updated model, its control and the references."""
        return self._checked(self.measure(subject))

    def ask(self, metric: Metric, criteria: Criteria, *, exact: bool) -> Question:
        """Return the question for a metric; ``exact``: trained on the retained rows alone."""
        found = self.excess(metric, criteria)
        if isinstance(found, str):
            return Question(self.name, None, found)
        two_sided = self.direction is Direction.WITHIN
        return Question(self.name, replace(found, two_sided=two_sided, exact=exact))

    def unanswerable(self) -> Question:
        """Return the question when no never-seen row has a forgotten row's class."""
        return Question(self.name, None, NO_ROWS_ALIKE)


@dataclass(frozen=True, kw_only=True)
class BatchGate(Gate):
    """A gate about traces of the batch's own rows, judged by a test with its own error rate.

    It is never pooled, and may be asked about any number of rows.
    """

    concern: ClassVar[Concern] = "removal"

    measure: Callable[[Subject], Metric | None]
    judge: Callable[[Metric, Criteria], Finding]
    counts: Counts = Counts.CHECK
    precedence: int = 0

    def measured(self, subject: Subject) -> Metric | None:
        """Return the figure for the updated model and its control; None: nothing to judge."""
        return self._checked(self.measure(subject))

    def outcome(self, metric: Metric, criteria: Criteria, *, exact: bool) -> Outcome:
        """Return the gate's outcome; ``exact``: trained on the retained rows alone."""
        return verdict.about_removal(self.name, self.judge(metric, criteria), exact=exact)


def excess_over(
    metric: Metric, target: float, *, limit: float, what: str, words: str = ""
) -> Excess:
    """Return the distance of the updated model and its control from ``target``.

    ``what`` names the quantity and ``words`` the target in a gate's reason.
    """
    assert metric.control is not None
    return _excess(
        metric,
        metric.unlearned.shifted(-target),
        metric.control.shifted(-target),
        target=words or f"{target:g}",
        limit=limit,
        what=what,
    )


def excess_over_references(
    metric: Metric, target: float, *, limit: float, what: str, words: str = ""
) -> Excess:
    """Return the distance from the references' mean if there is one, else from ``target``."""
    reference = metric.reference
    if reference is None:
        return excess_over(metric, target, limit=limit, what=what, words=words)
    assert metric.control is not None
    return _excess(
        metric,
        metric.unlearned.minus(reference),
        metric.control.minus(reference),
        target=f"the references' {reference.value:.3f}",
        limit=limit,
        what=what,
    )


def audited(subject: Subject, model: ModelScores) -> Scores:
    """Return a model's scores on the never-seen rows that judge utility."""
    return model.audit.take(subject.judged)


def _excess(
    metric: Metric, unlearned: Estimate, control: Estimate, *, target: str, limit: float, what: str
) -> Excess:
    return Excess(
        unlearned=unlearned,
        control=control,
        limit=limit,
        rows=metric.rows,
        what=what,
        target=target,
    )
