"""Forget rows against never-seen rows of the same class mix, pooled over batches of one anchor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from unlearning.errors import WrongOptions
from unlearning.verification.statistics.chain import Chain
from unlearning.verification.statistics.outside import Outside
from unlearning.verification.statistics.scores import Floats, Integers, ModelScores, Scores

Side = Callable[["Evidence"], ModelScores]
#: A class with fewer never-seen rows is not judged: with one to four, up to 28 of 100 models that
#: never saw the forgotten rows were failed for differing from these few.
LEAST_OF_A_CLASS = 8


@dataclass(frozen=True)
class Evidence:
    """Scores of one batch: the updated model, its unchanged control and the references.

    The control is the version that the batch started from; a reference is a model trained without
    the forget rows. All were scored on the same rows.
    """

    unlearned: ModelScores
    control: ModelScores
    references: tuple[ModelScores, ...] = ()
    #: Margins of these rows under models that were not trained on them, where they are known.
    outside: Outside | None = None
    #: The evidence of the chain up to this batch, if it is an earlier one.
    chain: Chain | None = None

    def __post_init__(self) -> None:
        self._check_outside()
        for other in (self.control, *self.references):
            for name, scores in other.sets().items():
                ours = self.unlearned.sets().get(name)
                if ours is not None and not np.array_equal(ours.rows, scores.rows):
                    raise WrongOptions(
                        f"the models were scored on different {name} rows; score the same ones"
                    )

    def _check_outside(self) -> None:
        """Raise ``WrongOptions`` unless there is a margin, or NaN, for each scored row."""
        if self.outside is None:
            return
        for name, scores in self.unlearned.sets().items():
            values = getattr(self.outside, name, None)
            if values is not None and len(values) != len(scores):
                raise WrongOptions(
                    f"there are margins of {len(values)} {name} rows, and {len(scores)} are scored"
                )


@dataclass(frozen=True)
class Comparison:
    """Batches whose forget rows have never-seen rows of their class, with those rows' weights.

    ``weights`` (n_u,) float64 sum to one and give the never-seen rows the class mix of the pooled
    forget rows. Every forget row is compared within its own batch, with the scores that the same
    model gave to the never-seen rows, because losses of different versions have no common scale.
    """

    batches: tuple[Evidence, ...]
    weights: Floats
    #: Forget rows left out: fewer than ``LEAST_OF_A_CLASS`` never-seen rows have their class.
    unmatched: int

    @property
    def forget_rows(self) -> int:
        """Return the number of forget rows, over all batches."""
        return sum(len(b.unlearned.forget) for b in self.batches)

    @property
    def never_seen_rows(self) -> int:
        """Return the number of never-seen rows that they are compared with."""
        return len(self.weights)

    def with_references(self) -> Comparison | None:
        """Return the batches that have references, matched on their own; None if none has."""
        known = [b for b in self.batches if b.references]
        return match(known) if known else None

    @property
    def references(self) -> int:
        """Return the number of references that every batch has."""
        return min((len(b.references) for b in self.batches), default=0)

    @property
    def classes(self) -> tuple[Integers, Integers]:
        """Return the labels of all forget rows, batch after batch, and of the never-seen rows."""
        own = [b.unlearned.forget.label for b in self.batches]
        return np.concatenate(own), self.batches[0].unlearned.audit.label

    def pairs(self, side: Side) -> list[tuple[Scores, Scores]]:
        """Return the (forget, never-seen) scores of one model for each batch."""
        return [(side(b).forget, side(b).audit) for b in self.batches]


def match(batches: Sequence[Evidence]) -> Comparison:
    """Align the batches on their common never-seen rows; weight these to the forget classes."""
    common = reduce(_common, [b.unlearned.audit.rows for b in batches])
    first = batches[0].unlearned.audit
    label = first.label[_positions(first.rows, common)]
    forget_labels = np.concatenate([b.unlearned.forget.label for b in batches])
    classes, count = np.unique(label, return_counts=True)
    judged = classes[count >= LEAST_OF_A_CLASS]
    known = np.isin(forget_labels, judged)
    weights = _class_weights(label, forget_labels[known])
    used = common[weights > 0]
    kept = tuple(_restrict(b, used, judged) for b in batches)
    return Comparison(
        batches=tuple(b for b in kept if len(b.unlearned.forget)),
        weights=weights[weights > 0],
        unmatched=int(np.sum(~known)),
    )


def _common(first: Integers, second: Integers) -> Integers:
    if first is second or np.array_equal(first, second):
        return first
    return np.intersect1d(first, second)


def _class_weights(never_seen: Integers, forget: Integers) -> Floats:
    weights = np.zeros(len(never_seen))
    for label, count in zip(*np.unique(forget, return_counts=True), strict=True):
        here = never_seen == label
        weights[here] = count / len(forget) / np.sum(here)
    return weights


def _restrict(batch: Evidence, audit_rows: Integers, labels: Integers) -> Evidence:
    def cut(scores: ModelScores) -> ModelScores:
        return ModelScores(
            forget=scores.forget.take(np.isin(scores.forget.label, labels)),
            audit=scores.audit.take(_positions(scores.audit.rows, audit_rows)),
        )

    return Evidence(cut(batch.unlearned), cut(batch.control), tuple(map(cut, batch.references)))


def _positions(rows: Integers, wanted: Integers) -> Integers:
    if np.array_equal(rows, wanted):
        return np.arange(len(rows))
    order = np.argsort(rows)
    return order[np.searchsorted(rows, wanted, sorter=order)].astype(np.int64)
