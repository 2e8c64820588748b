"""Refit of the last layer: what the hidden layers know of forgotten rows.

The last linear layer is fitted anew to retained rows alone, over the features that the network
gives it. Answers that were only changed at the end, by a lookup or by neurons that fire on single
rows, are gone then, and rows that shaped the features are classified better than never-seen ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.core.examples import Examples
from unlearning.verification.attacks import features
from unlearning.verification.statistics.scores import Floats, Integers


@dataclass(frozen=True)
class Rows:
    """Rows of each set that are used, at most: the cost is one forward pass of them."""

    forget: int = 500
    audit: int = 500
    retain: int = 500


@dataclass(frozen=True)
class Refit:
    """How far the refitted layer prefers each row's label, under the update and its control.

    ``forget``, ``audit``: output of the label less the largest other one, (n,) float64. The rows
    are those at the positions ``forget_at`` and ``audit_at`` of the scored sets.
    """

    forget: Floats
    audit: Floats
    control_forget: Floats
    control_audit: Floats
    forget_at: Integers
    audit_at: Integers

    @classmethod
    def of(
        cls,
        model: nn.Module,
        control: nn.Module,
        forget: Examples,
        audit: Examples,
        retain: Examples,
        *,
        classes: int,
        rows: Rows | None = None,
    ) -> Refit | None:
        """Refit both models; None if one has no last linear layer of one vector per row.

        Of each set the first rows of a fixed random order are used.
        """
        rows = rows or Rows()
        at = [
            _drawn(len(e), most)
            for e, most in ((forget, rows.forget), (audit, rows.audit), (retain, rows.retain))
        ]
        sets = [e.subset(where) for e, where in zip((forget, audit, retain), at, strict=True)]
        found = [_answers(one, sets, classes) for one in (model, control)]
        if found[0] is None or found[1] is None:
            return None
        return cls(*found[0], *found[1], at[0].numpy(), at[1].numpy())


def _drawn(count: int, most: int) -> Tensor:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    return order[:most].sort().values


def _answers(model: nn.Module, sets: list[Examples], classes: int) -> tuple[Floats, Floats] | None:
    seen = [features.penultimate(model, examples) for examples in sets]
    forget, audit, retain = seen
    if forget is None or audit is None or retain is None:
        return None
    targets = functional.one_hot(sets[2].labels, classes).double()
    layer = features.fitted(retain, targets)
    return _preference(layer.outputs(forget), sets[0]), _preference(layer.outputs(audit), sets[1])


def _preference(outputs: Tensor, examples: Examples) -> Floats:
    label = examples.labels[:, None]
    others = outputs.scatter(1, label, -torch.inf).amax(1)
    return np.asarray((outputs.gather(1, label)[:, 0] - others).numpy())
