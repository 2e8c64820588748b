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
from torch import nn

from unlearning.architectures import RidgeClassifier
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain, NothingRetained, WrongOptions
from unlearning.heads import certificate
from unlearning.methods import _heads
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
    if not isinstance(model, RidgeClassifier):
        raise WrongOptions("downdate needs a head that is fitted in closed form, such as ridge")
    if not len(retain):
        raise NothingRetained
    try:
        moved = _heads.moved(model, forget, retain, context)
        updated = model.refitted(moved.after)
    except WrongOptions as damage:
        raise NeedsRetrain(str(damage)) from damage
    shown = certificate.solved(
        moved.before,
        moved.after,
        deleted=moved.deleted,
        added=moved.added,
        weights=updated.network.weight.detach().cpu().T,
        penalty=float(updated.network.penalty),
    )
    too_large = {"the residual is above max_residual": shown.residual > options.max_residual}
    _heads.require_holds(shown, moved.after, retain.labels, too_large)
    return Update(
        model=updated.eval(),
        is_anchor=True,
        statistics=moved.after,
        certificate=shown.to_json(),
        notes={"features": shown.features, "penalty": shown.penalty, "grid_bits": moved.after.bits},
    )
