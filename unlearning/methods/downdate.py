"""Take rows out of the sums of a ridge head and solve again: equal to a refit, bit for bit.

    G ← G − Q_fᵀQ_f,   B ← B − Q_fᵀY_f,   W = (G + λI)⁻¹B

with the features Q_f (m, d) of the rows that the statistics hold and that are no longer retained,
and their class indicators Y_f (m, classes). All sums are exact (``unlearning.heads.statistics``),
so the result does not depend on the order or number of deletions. Rows that are retained and not
held yet are added in the same way.

Needs the statistics of the base version. The same λ and temperature are used as before; both were
chosen on validation rows. A row whose features are not those with which it was added is refused.

Guarantee: exact. The weights are those of a fit on the retained rows alone with the same λ, which
the certificate of the update states in numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from unlearning.architectures import HeadClassifier
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain, NothingRetained, WrongOptions
from unlearning.heads import certificate, statistics
from unlearning.heads.certificate import Certificate
from unlearning.heads.statistics import Statistics
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "exact"
COST = "step"
NEEDS = {"statistics": FORGETS}


@dataclass(frozen=True)
class Options:
    """When the head is fitted anew instead."""

    #: Largest residual ‖(G + λI)W − B‖ / ‖B‖ of the solved weights.
    max_residual: Annotated[float, Ge(1e-16), Le(certificate.MOST_RESIDUAL)] = (
        certificate.MOST_RESIDUAL
    )


def unlearn(
    model: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    options: Options,
    context: Context,
    generator: torch.Generator,
) -> Update:
    """Return the head fitted to ``retain``, with its statistics and a certificate.

    Raise ``NeedsRetrain`` if the base version's statistics are missing, damaged or not of its rows.
    """
    if not isinstance(model, HeadClassifier):
        raise WrongOptions("downdate needs a head that is fitted in closed form, such as ridge")
    if not len(retain):
        raise NothingRetained
    if context.statistics is None:
        raise NeedsRetrain("no statistics of the base version are kept; the next fit keeps them")
    try:
        before = statistics.grown(context.statistics, len(retain.y))
        if not bool(before.held[forget.positions].all()):
            raise NeedsRetrain("a row to forget is not in the statistics of the base version")
        wanted = torch.zeros_like(before.held)
        wanted[retain.positions] = True
        gone = _at(retain, before.held & ~wanted)
        come = _at(retain, wanted & ~before.held)
        after = model.with_rows(model.without_rows(before, gone), come)
        updated = model.refitted(after)
    except WrongOptions as damage:
        raise NeedsRetrain(str(damage)) from damage
    shown = certificate.of(
        before,
        after,
        deleted=gone.labels,
        added=come.labels,
        weights=updated.network.weight.detach().cpu().T,
        penalty=float(updated.network.penalty),
    )
    _require_holds(shown, after, retain.labels, options)
    return Update(
        model=updated.eval(),
        is_anchor=True,
        statistics=after,
        certificate=shown.to_json(),
        notes={"features": shown.features, "penalty": shown.penalty, "grid_bits": after.bits},
    )


def _at(examples: Examples, mask: Tensor) -> Examples:
    return Examples(examples.x, examples.y, mask.nonzero()[:, 0])


def _require_holds(shown: Certificate, after: Statistics, labels: Tensor, options: Options) -> None:
    """Raise ``NeedsRetrain`` unless the certificate holds and counts the retained rows exactly."""
    wrong = certificate.faults(shown.to_json())
    counted = labels.bincount(minlength=len(after.class_counts))
    if not torch.equal(counted, after.class_counts):
        wrong.append("the classes are not those of the retained rows")
    if shown.residual > options.max_residual:
        wrong.append("the residual is above max_residual")
    if wrong:
        raise NeedsRetrain(f"the certificate does not hold: {'; '.join(wrong)}")
