"""VGG-19 with batch norm and one linear layer on top, the form used for small images.

Parameter names are ``features.N`` and ``classifier``.

Simonyan and Zisserman, Very Deep Convolutional Networks (2014), table 1, column E; the batch norm
after each convolution is Ioffe and Szegedy (2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn

# Convolutions per stage and their channels as multiples of the first stage's.
_STAGES = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))


@dataclass(frozen=True)
class Parameters:
    """Input channels, number of classes and the channels of the first stage (64 in the paper)."""

    channels: Annotated[int, Ge(1), Le(64)] = 3
    classes: Annotated[int, Ge(2), Le(100_000)] = 10
    width: Annotated[int, Ge(1), Le(1024)] = 64


def build(parameters: Parameters) -> nn.Module:
    """Return the untrained network: images (n, channels, h, w) float32 to logits (n, classes).

    Any height and width will do.
    """
    return _Vgg(parameters.channels, parameters.classes, parameters.width)


class _Vgg(nn.Module):
    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for convolutions, multiple in _STAGES:
            for _ in range(convolutions):
                self.features.extend(_convolution(channels, multiple * width))
                channels = multiple * width
            # Rounding up keeps images under 32 pixels alive through all five halvings.
            self.features.append(nn.MaxPool2d(2, ceil_mode=True))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    # Sixteen layers deep the default initialisation lets the signal fade.
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
