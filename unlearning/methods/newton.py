"""Search the minimum of a logistic head again without the rows, and bound the distance to it.

    F(W) = Σ_retained [lse(Wᵀq) − (Wᵀq)_y] + λ/2 ‖W‖²,   W ← W − M⁻¹∇F(W) until ‖∇F(W)‖ is rounding

from the present weights, with M the Hessian that is kept from the base version's minimum, corrected
by what the steps show (L-BFGS). Each step reads the retained rows once. Rows that are retained and
not held yet join in the same way.

F is λ-strongly convex: the weights of a fit on the retained rows are its one minimum W*, and
‖W − W*‖ ≤ ‖∇F(W)‖ / λ, whatever the search began with. The certificate of the update states the
slope, a bound on its rounding and this distance, and the sums of the rows as for ``downdate``.

Needs the statistics of the base version: their sums tell which rows it held and as what, and a row
that is not held, or whose features are others now, is refused. With classes · features ≤ 8,000
they hold the Hessian's factor, and 5 to 20 passes over the rows replace the 100 to 300 of a fit;
one more pass, of classes · features times the cost, computes the factor of the new minimum, so
that what is kept does not tell of the deleted rows. With more weights a deletion takes about as
many passes as a fit.

Guarantee: certified. Within the bound the weights are those of a fit on the retained rows with the
same λ; below the bound, 10^-4 at most and often 10^-8, they may depend on the deleted rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import nn

from unlearning.architectures import LogisticClassifier
from unlearning.core.examples import Examples
from unlearning.errors import NeedsRetrain, NothingRetained, WrongOptions
from unlearning.heads import certificate
from unlearning.methods import _heads
from unlearning.methods._contract import Context, Update

FORGETS = frozenset({"records", "class"})
GUARANTEE = "certified"
COST = "step"
NEEDS = {"statistics": FORGETS}


@dataclass(frozen=True)
class Options:
    """When the head is fitted anew instead."""

    #: Largest bound on the distance ‖W − W*‖ from the weights of a fit on the retained rows.
    max_distance: Annotated[float, Ge(1e-16), Le(certificate.MOST_DISTANCE)] = (
        certificate.MOST_DISTANCE
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
    """Return the head at the minimum over ``retain``, with its statistics and a certificate.

    Raise ``NeedsRetrain`` if the base version's statistics are missing, damaged or not of its rows,
    or if no minimum is found.
    """
    if not isinstance(model, LogisticClassifier):
        raise WrongOptions("newton needs a head that is fitted to a minimum, such as logistic")
    if not len(retain):
        raise NothingRetained
    try:
        moved = _heads.moved(model, forget, retain, context)
        updated, after, reached = model.refitted(
            moved.after, retain, factor=moved.before.factor, progress=context.progress
        )
    except WrongOptions as damage:
        raise NeedsRetrain(str(damage)) from damage
    shown = certificate.bounded(
        moved.before,
        after,
        deleted=moved.deleted,
        added=moved.added,
        slope=reached.slope,
        penalty=float(updated.network.penalty),
    )
    too_far = {"the distance is above max_distance": shown.distance_bound > options.max_distance}
    _heads.require_holds(shown, after, retain.labels, too_far)
    return Update(
        model=updated.eval(),
        is_anchor=True,
        statistics=after,
        certificate=shown.to_json(),
        notes={
            "features": shown.features,
            "penalty": shown.penalty,
            "grid_bits": after.bits,
            "passes": reached.passes,
        },
    )
