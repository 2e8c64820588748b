"""What is measured: verdicts on attacks and honest retrains, power, coverage of intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.auditor import judging
from benchmarks.auditor.scoring import HONEST, Scored
from unlearning.verification import Verdict
from unlearning.verification.report import Verification

#: What a metric's interval should contain if the model never saw the rows.
TARGETS = {
    "membership_auc": 0.5,
    "forget_accuracy_gap": 0.0,
    "large_loss_shortfall": 0.0,
    "calibrated_excess_auc": 0.5,
    "excess_tail_share": 0.2,
    "audit_gain_auc": 0.5,
}
_CONFIDENCE = 0.95


@dataclass
class Counts:
    """Verdicts, and the gates that failed, by what was judged.

    ``covered``: honest retrains by metrics whose 95 % interval contains what it should.
    """

    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    covered: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, found: Verification) -> None:
        """Count one verification."""
        self.verdicts.setdefault(name, Counter())[str(found.verdict)] += 1
        gates = [one.gate for one in found.outcomes if one.outcome is Verdict.FAILED]
        self.failed.setdefault(name, Counter()).update(gates)
        # Removal is judged apart from accuracy, which a retrain can lose by its seed.
        concern = {one.concern for one in found.outcomes if one.outcome is Verdict.FAILED}
        self.failed[name]["(any about removal)"] += "removal" in concern

    def cover(self, found: Verification) -> None:
        """Count the intervals of an honest retrain that contain what they should."""
        for name, target in TARGETS.items():
            low, high = found.metric(name).unlearned.interval(_CONFIDENCE)
            self.covered[name] += low <= target <= high

    def merged(self, other: Counts) -> Counts:
        """Return the sum of both."""
        covered = Counter(self.covered)
        covered.update(other.covered)
        sums = Counts(dict(self.verdicts), dict(self.failed), covered)
        for ours, theirs in ((sums.verdicts, other.verdicts), (sums.failed, other.failed)):
            for name, counter in theirs.items():
                ours[name] = ours.get(name, Counter()) + counter
        return sums

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries."""
        return {
            "verdicts": {name: dict(counter) for name, counter in self.verdicts.items()},
            "failed": {name: dict(counter) for name, counter in self.failed.items()},
            "covered": dict(self.covered),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Counts:
        """Return what ``to_json`` made these of."""
        verdicts, failed = (
            {name: Counter(one) for name, one in content[part].items()}
            for part in ("verdicts", "failed")
        )
        return cls(verdicts, failed, Counter(content["covered"]))


def count(scored: Scored, tell: Callable[[float], None] = lambda _f: None) -> Counts:
    """Judge every case of a world."""
    counts = Counts()
    for done, case in enumerate(scored.cases):
        tell(done / len(scored.cases))
        found = judging.judged(scored, case)
        counts.add(case.name, found)
        if case.name == HONEST:
            counts.cover(found)
    return counts


def add_up(found: Iterable[Counts]) -> Counts:
    """Return the sum of all."""
    total = Counts()
    for one in found:
        total = total.merged(one)
    return total
