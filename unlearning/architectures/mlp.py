"""Fully connected network with ReLU, for tables and small images (which it flattens)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from annotated_types import Ge, Le, MaxLen
from torch import nn

Units = Annotated[int, Ge(1), Le(65_536)]


@dataclass(frozen=True)
class Parameters:
    """Size of the input and of the hidden layers."""

    inputs: Annotated[int, Ge(1), Le(1_000_000)] = 64
    hidden: Annotated[tuple[Units, ...], MaxLen(32)] = (512, 256)
    classes: Annotated[int, Ge(2), Le(100_000)] = 10


def build(parameters: Parameters) -> nn.Module:
    """Return the untrained network: (n, ...) float to logits (n, classes)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((parameters.inputs, *parameters.hidden)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    last = parameters.hidden[-1] if parameters.hidden else parameters.inputs
    return nn.Sequential(*layers, nn.Linear(last, parameters.classes))
