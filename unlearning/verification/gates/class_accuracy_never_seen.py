"""Class accuracy on rows never seen: whether the forgotten class is recognised in new rows."""

from __future__ import annotations

import numpy as np

from unlearning.verification import measures
from unlearning.verification.gates import Direction, Need, RemovalGate, Subject
from unlearning.verification.gates.class_accuracy import LIMIT, excess
from unlearning.verification.measures import Metric
from unlearning.verification.statistics.scores import ModelScores, Scores
from unlearning.verification.verdict import Counts

METRIC = "class_accuracy_never_seen"


def measure(subject: Subject) -> Metric | None:
    """Return the accuracy on the class's never-seen rows; None where there are none."""
    forgotten = np.unique(subject.evidence.unlearned.forget.label)

    def pick(model: ModelScores) -> Scores:
        return model.audit.take(np.isin(model.audit.label, forgotten))

    if not len(pick(subject.evidence.unlearned)):
        return None
    return measures.class_accuracy(subject.evidence, METRIC, pick)


GATE = RemovalGate(
    name="class_accuracy_never_seen",
    question="Are never-seen rows of the forgotten class still recognised?",
    limits=(LIMIT,),
    metric=METRIC,
    needs=frozenset({Need.CLASS}),
    direction=Direction.AT_MOST,
    measure=measure,
    excess=excess,
    counts=Counts.MEMBERSHIP,
    precedence=1,
)
