"""What is measured: verdicts on attacks and honest retrains, power, coverage of intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.auditor import attacks, judging
from benchmarks.auditor.judging import Place
from benchmarks.auditor.worlds import Trained
from unlearning.verification import Verdict
from unlearning.verification.report import Verification

HONEST, BASE = "retrained", "left as they were"
#: Numbers of rows of small batches, and draws of each per set of rows to forget.
SIZES, DRAWS = (1, 2, 3, 5, 10, 30), 3
#: Kinds of rows of a small batch; there are few with wrong labels.
ANY, WRONG = "any", "wrong labels"
MOST_WRONG = 3


@dataclass
class Counts:
    """Verdicts, and the gates that failed, by what was judged."""

    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    failed: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, name: str, found: Verification) -> None:
        """Count one verification."""
        self.verdicts.setdefault(name, Counter())[str(found.verdict)] += 1
        gates = [one.gate for one in found.outcomes if one.outcome is Verdict.FAILED]
        self.failed.setdefault(name, Counter()).update(gates)
        # Removal is judged apart from accuracy, which a retrain can lose by its seed.
        concern = {one.concern for one in found.outcomes if one.outcome is Verdict.FAILED}
        self.failed[name]["(any about removal)"] += "removal" in concern

    def merged(self, other: Counts) -> Counts:
        """Return the sum of both."""
        sums = Counts(dict(self.verdicts), dict(self.failed))
        for ours, theirs in ((sums.verdicts, other.verdicts), (sums.failed, other.failed)):
            for name, counter in theirs.items():
                ours[name] = ours.get(name, Counter()) + counter
        return sums

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries."""
        return {
            "verdicts": {name: dict(counter) for name, counter in self.verdicts.items()},
            "failed": {name: dict(counter) for name, counter in self.failed.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Counts:
        """Return what ``to_json`` made these of."""
        return cls(
            *({name: Counter(c) for name, c in content[part].items()} for part in
              ("verdicts", "failed"))
        )  # fmt: skip


def whole(trained: Trained, *, honest: int, attacked: int) -> Counts:
    """Judge whole sets of rows: ``honest`` retrains, and every attack on ``attacked`` sets."""
    counts = Counts()
    for which in range(honest):
        place = Place(trained, which)
        counts.add(HONEST, judging.judged(place, trained.retrained[which]))
        if which < attacked:
            for name, attack in attacks.ATTACKS.items():
                counts.add(name, judging.judged(place, attack(place)))
    return counts


def small(trained: Trained, *, sets: int) -> Counts:
    """Judge small batches of ``sets`` sets of rows, retrained and left as they were."""
    counts = Counts()
    for which in range(sets):
        _small(counts, Place(trained, which), trained.retrained[which])
    return counts


def _small(counts: Counts, place: Place, honest: nn.Module) -> None:
    world = place.trained.world
    wrong = np.flatnonzero(world.wrong[world.train.positions[place.rows]].numpy())
    kinds = {ANY: np.arange(len(place.rows))} | ({WRONG: wrong} if len(wrong) else {})
    random = np.random.default_rng([world.seed, place.which])
    models = {
        BASE: judging.scored(place, place.trained.base),
        HONEST: judging.scored(place, honest),
    }
    for kind, rows in kinds.items():
        for size in SIZES if kind is ANY else SIZES[:MOST_WRONG]:
            for only in _draws(rows, size, random):
                for name, model in models.items():
                    found = judging.judged_on_scores(place, model, only)
                    counts.add(f"{name}|{kind}|{size}", found)


def _draws(
    rows: NDArray[np.int64], size: int, random: np.random.Generator
) -> Iterable[NDArray[np.int64]]:
    if size > len(rows):
        return
    for _ in range(DRAWS):
        yield np.sort(random.choice(rows, size, replace=False))


#: What a metric's interval should contain if the model never saw the rows.
TARGETS = {
    "membership_auc": 0.5,
    "forget_accuracy_gap": 0.0,
    "large_loss_shortfall": 0.0,
    "calibrated_excess_auc": 0.5,
    "excess_tail_share": 0.2,
    "audit_gain_auc": 0.5,
}


def coverage(trained: Trained, *, confidence: float = 0.95) -> Counter[str]:
    """Return of how many honest retrains each metric's interval contains what it should."""
    found: Counter[str] = Counter()
    for which, model in enumerate(trained.retrained):
        place = Place(trained, which)
        every = np.arange(len(place.rows))
        update = judging.scored(place, model)
        judged = judging.judged_on_scores(place, update, every, attacks=False)
        for name, target in TARGETS.items():
            low, high = judged.metric(name).unlearned.interval(confidence)
            found[name] += low <= target <= high
    return found


def add_up(found: Iterable[Counts]) -> Counts:
    """Return the sum of all."""
    total = Counts()
    for one in found:
        total = total.merged(one)
    return total
