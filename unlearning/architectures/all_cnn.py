"""All-CNN-C: convolutions only, strides instead of pooling, and global averaging at the end.

Differences to the paper. The last 1×1 convolution to the classes comes after the averaging, as a
linear layer: without the ReLU between them the two are the same function, and methods that need a
linear head find one. Every convolution is padded, so that small images pass. There is no dropout,
whose noise would come from the process-wide random state; ``batch_norm`` takes its place.

Springenberg et al., Striving for Simplicity: The All Convolutional Net (2014), table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn


@dataclass(frozen=True)
class Parameters:
    """Input channels, number of classes, channels of the first layers (96 in the paper)."""

    channels: Annotated[int, Ge(1), Le(64)] = 3
    classes: Annotated[int, Ge(2), Le(100_000)] = 10
    width: Annotated[int, Ge(1), Le(1024)] = 96
    batch_norm: bool = True


def build(parameters: Parameters) -> nn.Module:
    """Return the untrained network: images (n, channels, h, w) float32 to logits (n, classes).

    Any height and width will do.
    """
    return _AllCnn(parameters)


class _AllCnn(nn.Module):
    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        narrow, wide = parameters.width, 2 * parameters.width
        layers = [  # inputs, outputs, kernel size, stride
            (parameters.channels, narrow, 3, 1),
            (narrow, narrow, 3, 1),
            (narrow, narrow, 3, 2),
            (narrow, wide, 3, 1),
            (wide, wide, 3, 1),
            (wide, wide, 3, 2),
            (wide, wide, 3, 1),
            (wide, wide, 1, 1),
        ]
        self.features = nn.Sequential()
        for layer in layers:
            self.features.extend(_convolution(*layer, batch_norm=parameters.batch_norm))
        self.classifier = nn.Linear(wide, parameters.classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def _convolution(
    inputs: int, outputs: int, size: int, stride: int, *, batch_norm: bool
) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=not batch_norm)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]
