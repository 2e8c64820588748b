"""Calibrated excess: membership with each row's difficulty taken out, on any number of rows."""

from __future__ import annotations

import numpy as np

from unlearning.verification.attacks.excess import Sample
from unlearning.verification.calibrated import MOST_RECORDS, WORST_RECORDS
from unlearning.verification.criteria import Criteria, Limit
from unlearning.verification.gates import BatchGate, Direction, Need, Subject
from unlearning.verification.measures import Metric
from unlearning.verification.statistics import exchange, local
from unlearning.verification.statistics.estimates import Estimate, contributions
from unlearning.verification.statistics.scores import Floats
from unlearning.verification.verdict import Counts, Finding, Verdict

METRIC = "calibrated_excess_auc"
LIMIT = Limit(
    "calibrated_excess",
    "Largest distance from .5 of the probability that a forgotten row's calibrated score exceeds"
    " that of a never-seen row alike.",
    default=0.03,
    high=0.5,
)
ALARMS = Limit(
    "calibrated_excess_alarms",
    "Probability with which a model that never saw the rows is failed for knowing them; 1.75 times"
    " that for fewer than ten rows.",
    default=0.01,
    low=0.0005,
    high=0.1,
)
#: The same for knowing them less than never-seen rows: with few rows that is rarely a harm.
_LOW_ALARMS = 0.0025
#: Of fewer rows no other gate judges the excess, so this one has the false alarms of all of them:
#: the spread's two, and the refit's.
_FEW_ROWS, _OF_FEW = 10, 1.75
#: From so many rows on a share of them that is remembered fails as well, although it moves the AUC
#: by less than the limit, at a fraction of the false alarms.
_ROWS_OF_A_SHARE, _SHARE, _FRACTION = 50, 0.05, 0.25
#: A pass needs a larger p-value.
_NOTHING_SHOWN = 0.05


def measure(subject: Subject) -> Metric | None:
    """Return the rank of the forgotten rows' scores among those of never-seen rows alike.

    None if too few never-seen rows, or no forgotten one, have a margin under models without them.
    """
    evidence, samples = subject.evidence, subject.excess
    if samples is None or evidence.outside is None:
        return None
    after, before = samples
    records = _records(after, before)
    return Metric(
        name=METRIC,
        unlearned=_mean(after.rank, after.never_seen),
        control=_mean(before.rank, before.never_seen),
        rows=len(after),
        never_seen_rows=after.never_seen,
        notes={
            "remembered_p": _remembered(after),
            "control_remembered_p": _remembered(before),
            "tenth_left_p": _tenth_left(after),
            "remembered_share": local.remembered_share(after.score),
            "forgotten_too_much_p": _too_low(after),
            "mean_excess": float(np.mean(after.deviation)),
            "control_mean_excess": float(np.mean(before.deviation)),
            "circular": evidence.outside.circular,
            "unknown_rows": len(evidence.unlearned.forget) - len(after),
        },
        records={"worst_records": records[:WORST_RECORDS], "per_record": records},
        sample=(after, before),
    )


def judge(metric: Metric, criteria: Criteria) -> Finding:
    """Fail what is remembered; pass what the control shows and the update shows to be gone.

    Nothing passes of which some rows have no margin: another gate, which sees all, has to decide.

    The rows are remembered if their scores are too large by the permutation test, and by more than
    the limit or, of many rows, in a share of them. More than ``removed`` of the control's mean
    excess is shown to be gone if never-seen rows, raised by what would be left, rarely lie so low.
    Of many rows so little evidence must be as rare if a tenth of them were left as they were.
    """
    after, before = metric.sample
    notes, limit = metric.notes, criteria.limit(LIMIT)
    alarms = criteria.limit(ALARMS) * (_OF_FEW if metric.rows < _FEW_ROWS else 1.0)
    distance = metric.unlearned.value - 0.5
    found = (
        f"the calibrated excess of {metric.rows} rows has AUC {metric.unlearned.value:.3f}"
        f" (p = {notes['remembered_p']:.4f}), under the base version {_value(metric):.3f}"
        f" (p = {notes['control_remembered_p']:.4f})"
    )
    some = metric.rows >= _ROWS_OF_A_SHARE and notes["remembered_share"] >= _SHARE
    if (notes["remembered_p"] <= alarms and distance > limit) or (
        notes["remembered_p"] <= _FRACTION * alarms and some
    ):
        return Verdict.FAILED, f"{found}: the rows are still remembered", True
    if notes["circular"]:
        circular = "the margins set the targets of the update, so they cannot show that it is gone"
        return Verdict.NO_POWER, f"{found}; {circular}", False
    low = float(np.mean(after.excess_rank)) - 0.5
    if notes["forgotten_too_much_p"] <= _LOW_ALARMS and low < -limit:
        too_much = "forgotten too much, which gives the rows away as well"
        return Verdict.FAILED, f"{found}: {too_much} ({low:+.3f} from .5)", True
    if notes["unknown_rows"]:
        others = f"{notes['unknown_rows']} other rows have no margin, so a pass would not be theirs"
        return Verdict.NO_POWER, f"{found}; {others}", False
    if notes["control_remembered_p"] > alarms or _value(metric) - 0.5 <= limit:
        same = "the rows do not show that even the base version knows them"
        return Verdict.NO_POWER, f"{found}: {same}", False
    left = _left_p(after, before, share=1 - criteria.removed)
    shown = f"{found}; p = {left:.4f} that {1 - criteria.removed:.0%} of the excess is left"
    rarely = (1 - criteria.confidence) / 2
    if left > rarely or notes["remembered_p"] <= _NOTHING_SHOWN:
        few = "too few rows to tell whether enough of it is gone"
        return Verdict.NO_POWER, f"{shown}: {few}", True
    if metric.rows >= _ROWS_OF_A_SHARE and notes["tenth_left_p"] > rarely:
        tenth = f"p = {notes['tenth_left_p']:.4f} that a tenth of the rows were left as they were"
        return Verdict.NO_POWER, f"{shown}; {tenth}", True
    return Verdict.PASSED, f"{shown}: it is gone", True


def _remembered(sample: Sample) -> float:
    return exchange.remembered_p(sample.exchange)


def _tenth_left(sample: Sample) -> float:
    scores = sample.score, sample.score_if_left, sample.others_score
    return local.left_p(*scores, never_seen=sample.never_seen)


def _too_low(sample: Sample) -> float:
    """Return the p-value of low excesses, as ranks so that a single outlier does not decide."""
    ranks = -sample.excess_rank
    return local.upper_p(ranks, _uniform(sample), never_seen=sample.never_seen)


def _uniform(sample: Sample) -> Floats:
    """Return the ranks that a row like its neighbours may have, negated, (n, k)."""
    count = sample.others_score.shape[1]
    ranks = -(np.arange(count) + 0.5) / count
    return np.broadcast_to(ranks, (len(sample), count))


def _left_p(after: Sample, before: Sample, *, share: float) -> float:
    """Return the probability of excesses so low if ``share`` of the control's mean were left."""
    left = share * float(np.mean(before.deviation))
    if left <= 0:
        return 1.0
    return local.upper_p(
        -after.deviation, -after.others_deviation, never_seen=after.never_seen, shift=-left
    )


def _mean(ranks: Floats, never_seen: int) -> Estimate:
    n = len(ranks)
    return Estimate(
        value=float(np.mean(ranks)),
        forget=contributions(ranks),
        never_seen=np.zeros(0),
        floor=float(np.sqrt((1 / n + 1 / never_seen) / 12)),
        bounds=(0.0, 1.0),
    )


def _value(metric: Metric) -> float:
    assert metric.control is not None
    return metric.control.value


def _records(after: Sample, before: Sample) -> list[dict[str, float | int]]:
    """Return rows with excess and rank before and after the update, most member-like first."""
    order = np.argsort(-after.score)[:MOST_RECORDS]
    return [
        {
            "row": int(after.rows[i]),
            "score": float(after.rank[i]),
            "control": float(before.rank[i]),
            "excess": float(after.excess[i]),
            "control_excess": float(before.excess[i]),
        }
        for i in order
    ]


GATE = BatchGate(
    name="calibrated_excess",
    question="Does the model know forgotten rows better than models that never saw them would?",
    limits=(LIMIT, ALARMS),
    metric=METRIC,
    needs=frozenset({Need.RECORDS, Need.MARGINS}),
    direction=Direction.WITHIN,
    measure=measure,
    judge=judge,
    counts=Counts.MEMBERSHIP,
    precedence=3,
)
