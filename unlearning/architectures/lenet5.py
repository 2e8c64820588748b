"""LeNet-5 with ReLU and max pooling, for images of 8 × 8 pixels and up.

LeCun et al., "Gradient-based learning applied to document recognition" (1998), section II.B: two
5 × 5 convolutions with pooling, then fully connected layers of 120 and 84 units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import nn

from unlearning.errors import WrongOptions


@dataclass(frozen=True)
class Parameters:
    """Size of the input and of the network."""

    channels: Annotated[int, Ge(1), Le(64)] = 3
    image_height: Annotated[int, Ge(1), Le(1024)] = 32
    image_width: Annotated[int, Ge(1), Le(1024)] = 32
    classes: Annotated[int, Ge(2), Le(100_000)] = 10
    #: Feature maps of the first convolution; every other layer keeps its proportion to it.
    width: Annotated[int, Ge(1), Le(1024)] = 6


def build(parameters: Parameters) -> nn.Module:
    """Return the untrained network: (n, channels, height, width) float to logits (n, classes)."""
    first, second, third, fourth = (
        max(1, round(units * parameters.width / 6)) for units in (6, 16, 120, 84)
    )
    smaller = min(parameters.image_height, parameters.image_width)
    if smaller < 8:
        raise WrongOptions(f"lenet5 needs images of at least 8 × 8 pixels, not {smaller}")
    # The original pads 28-pixel digits to 32. Images below that would vanish in the second
    # convolution, so there it keeps the size too.
    paddings = (2 if smaller < 32 else 0, 2 if smaller < 28 else 0)
    height, width = (
        _after(side, paddings) for side in (parameters.image_height, parameters.image_width)
    )
    return nn.Sequential(
        nn.Conv2d(parameters.channels, first, 5, padding=paddings[0]),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=paddings[1]),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * height * width, third),
        nn.ReLU(),
        nn.Linear(third, fourth),
        nn.ReLU(),
        nn.Linear(fourth, parameters.classes),
    )


def _after(side: int, paddings: tuple[int, int]) -> int:
    for padding in paddings:
        side = (side + 2 * padding - 4) // 2
    return side
