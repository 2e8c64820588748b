"""What deletions from heads have in common: the rows that leave the sums, and those that join."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearning.architectures import HeadClassifier
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain
from unlearning.heads import certificate, statistics
from unlearning.heads.certificate import Certificate
from unlearning.heads.statistics import Statistics
from unlearning.methods._contract import Context


@dataclass(frozen=True)
class Moved:
    """The sums before and after, and the labels (m,) int64 of rows that left and that joined."""

    before: Statistics
    after: Statistics
    deleted: Tensor
    added: Tensor


def moved(model: HeadClassifier, forget: Examples, retain: Examples, context: Context) -> Moved:
    """Return the sums of ``retain``, made from those of the base version.

    Raise ``NeedsRetrain`` or ``WrongOptions`` if these are missing, damaged or not of the base
    version's rows.
    """
    if context.statistics is None:
        raise NeedsRetrain("no statistics of the base version are kept; the next fit keeps them")
    before = statistics.grown(context.statistics, len(retain.y))
    if not bool(before.held[forget.positions].all()):
        raise NeedsRetrain("a row to forget is not in the statistics of the base version")
    wanted = torch.zeros_like(before.held)
    wanted[retain.positions] = True
    gone = _at(retain, before.held & ~wanted)
    come = _at(retain, wanted & ~before.held)
    after = model.with_rows(model.without_rows(before, gone), come)
    return Moved(before, after, gone.labels, come.labels)


def require_holds(
    shown: Certificate, after: Statistics, labels: Tensor, others: dict[str, bool]
) -> None:
    """Raise ``NeedsRetrain`` unless the certificate holds and counts the retained rows exactly.

    ``labels`` are those of the retained rows; ``others`` has further faults, and whether each is
    there.
    """
    wrong = certificate.faults(shown.to_json())
    counted = labels.bincount(minlength=len(after.class_counts))
    if not torch.equal(counted, after.class_counts):
        wrong.append("the classes are not those of the retained rows")
    wrong += [why for why, there in others.items() if there]
    if wrong:
        raise NeedsRetrain(f"the certificate does not hold: {'; '.join(wrong)}")


def _at(examples: Examples, mask: Tensor) -> Examples:
    return Examples(examples.x, examples.y, mask.nonzero()[:, 0])
