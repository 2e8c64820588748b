"""What a set of models leaves of the rows to forget, beside models retrained without them.

KLoM, the KL divergence of margins, follows Georgiev, Rinberg, Park, Garg, Ilyas, Madry and Neel,
"Attribute-to-Delete: Machine Unlearning via Datamodel Matching" (arXiv 2410.23232): for each row
the divergence of the distribution of its margin over many unlearned models from that over many
retrained ones,

    KLoM_i = D_KL( φ_i(unlearned) ‖ φ_i(retrained) ).

Their program estimates it from histograms of 20 bins over hundreds of models, which caps it near
log 10⁵ = 11.5. With tens of models histograms are mostly empty; here both are fitted by normal
distributions, and the divergence is capped at 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.memorised.problems import Problem
from unlearning.anchored import margins
from unlearning.core import objective
from unlearning.core.examples import Examples

KLOM_CAP = 12.0
#: Retrained models that accuracies, attacks and distances are compared with.
YARDSTICKS = 3


@dataclass(frozen=True)
class Margins:
    """Margins (models, rows) float64 of one set of models on each kind of rows."""

    forget: Tensor
    retain: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class Line:
    """One set of models; accuracies are shares, the others as the module says."""

    problem: str
    method: str
    models: int
    forget_accuracy: float
    true_accuracy: float
    retain_accuracy: float
    test_accuracy: float
    auc: float
    calibrated_auc: float
    rms: float
    bias: float
    klom_median: float
    klom_95: float
    klom_retain: float
    klom_retain_95: float
    klom_validation: float
    klom_validation_95: float


def margins_of(models: Sequence[nn.Module], problem: Problem) -> Margins:
    """Return the margins of all models."""

    def of(rows: Examples) -> Tensor:
        return torch.stack([margins.of_examples(m, rows) for m in models])

    data = problem.data
    return Margins(of(problem.forget), of(problem.retain), of(data.validation), of(data.test))


def line(method: str, models: Sequence[nn.Module], problem: Problem, retrained: Margins) -> Line:
    """Measure ``models`` against the retrained ones.

    ``auc``: P(margin of a forgotten row > margin of a test row). ``calibrated_auc``: the same of
    margins minus the mean margin of ``YARDSTICKS`` retrained models. ``rms``: distance of a
    model's margins on the forgotten rows from each of theirs.
    """
    ours = margins_of(models, problem)
    return Line(
        problem.name,
        method,
        len(models),
        _accuracy(models, problem.forget),
        _accuracy(models, problem.forget_true),
        _accuracy(models, problem.retain),
        _accuracy(models, problem.data.test),
        *_attacks(ours, retrained),
        *_distances(ours, retrained),
        *_kloms(ours, retrained),
    )


def klom(ours: Tensor, retrained: Tensor) -> Tensor:
    """Return the divergence for each row, (n,), from margins (models, n) of both kinds."""
    m, s = ours.mean(0), ours.std(0).clamp_min(1e-6)
    m0, s0 = retrained.mean(0), retrained.std(0).clamp_min(1e-6)
    found = torch.log(s0 / s) + (s.square() + (m - m0).square()) / (2 * s0.square()) - 0.5
    return found.clamp_max(KLOM_CAP)


def auc(forget: Tensor, unseen: Tensor) -> float:
    """Return P(a score of ``forget`` > one of ``unseen``), equal ones counted half."""
    above = (forget[:, None] > unseen).double() + 0.5 * (forget[:, None] == unseen).double()
    return float(above.mean())


def _accuracy(models: Sequence[nn.Module], rows: Examples) -> float:
    return float(torch.stack([objective.correct(m, rows).double().mean() for m in models]).mean())


def _attacks(ours: Margins, retrained: Margins) -> tuple[float, float]:
    forget, test = (t[:YARDSTICKS].mean(0) for t in (retrained.forget, retrained.test))
    plain = [auc(f, u) for f, u in zip(ours.forget, ours.test, strict=True)]
    calibrated = [auc(f - forget, u - test) for f, u in zip(ours.forget, ours.test, strict=True)]
    return sum(plain) / len(plain), sum(calibrated) / len(calibrated)


def _distances(ours: Margins, retrained: Margins) -> tuple[float, float]:
    theirs = retrained.forget[:YARDSTICKS]
    apart = (ours.forget[:, None] - theirs).square().mean(2).sqrt()
    # A retrained model is not compared with itself.
    return float(apart[apart > 0].mean()), float((ours.forget.mean(0) - theirs.mean(0)).mean())


def _kloms(ours: Margins, retrained: Margins) -> list[float]:
    found = []
    for kind in ("forget", "retain", "validation"):
        per_row = klom(getattr(ours, kind), getattr(retrained, kind))
        found += [float(per_row.median()), float(per_row.quantile(0.95))]
    return found
