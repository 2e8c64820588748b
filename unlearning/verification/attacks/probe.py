"""Linear probe: whether hidden layers still tell a forgotten class from the others.

A model that only never answers with a class can know it as well as before. The probe is a linear
classifier on the features that the last layer receives, of the class against the others, fitted to
training rows and tested on rows that were not used to fit it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearning.core.examples import Examples
from unlearning.verification.attacks import features

#: Rows of either kind that the probe is fitted to, and tested on, at most.
MOST_ROWS = 500


@dataclass(frozen=True)
class ClassProbe:
    """Balanced accuracy of the probe, .5 to 1 if the class is told, on ``rows`` rows of it."""

    unlearned: float
    control: float
    references: tuple[float, ...]
    rows: int


def measure(
    model: nn.Module,
    control: nn.Module,
    forget: Examples,
    retain: Examples,
    *,
    references: Sequence[nn.Module] = (),
) -> ClassProbe | None:
    """Probe each model; None if there are too few rows or a model has no last linear layer.

    Of the class (``forget``) and of the other classes (``retain``) one half fits the probe, with as
    many rows of both, and the other half tests it.
    """
    halves = [_halves(examples) for examples in (forget, retain)]
    count = min(len(part) for half in halves for part in half)
    if not count:
        return None
    fitting, testing = ([half[k].subset(torch.arange(count)) for half in halves] for k in (0, 1))
    found = [_balanced(one, fitting, testing) for one in (model, control, *references)]
    known = [accuracy for accuracy in found if accuracy is not None]
    if len(known) < len(found):
        return None
    return ClassProbe(known[0], known[1], tuple(known[2:]), count)


def _halves(examples: Examples) -> tuple[Examples, Examples]:
    generator = torch.Generator().manual_seed(len(examples))
    drawn = examples.sample(2 * MOST_ROWS, generator=generator)
    order = torch.randperm(len(drawn), generator=generator)
    half = len(drawn) // 2
    return drawn.subset(order[:half]), drawn.subset(order[half:])


def _balanced(
    model: nn.Module, fitting: Sequence[Examples], testing: Sequence[Examples]
) -> float | None:
    seen: list[Tensor] = []
    for examples in (*fitting, *testing):
        found = features.penultimate(model, examples)
        if found is None:
            return None
        seen.append(found)
    ours, others, test_ours, test_others = seen
    targets = torch.cat([torch.ones(len(ours), 1), -torch.ones(len(others), 1)]).double()
    layer = features.fitted(torch.cat([ours, others]), targets)
    right = [
        (layer.outputs(test_ours) > 0).double().mean(),
        (layer.outputs(test_others) < 0).double().mean(),
    ]
    return float(torch.stack(right).mean())
