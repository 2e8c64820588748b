"""ResNet-18 with the stem for small images: a 3×3 convolution, no pooling before the blocks.

Parameter names are those of the widespread ImageNet implementation (``conv1``, ``layer1.0.bn2``,
``layer2.0.downsample.0``, ``fc``), so a checkpoint trained elsewhere with this stem fits.

He et al., Deep Residual Learning for Image Recognition (2015), sections 3.3 and 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

#: The usual training on CIFAR-10, without the gradient restriction: it is twice the time.
RECIPE = {
    "optimiser": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "epochs": 100,
    "keep": "last",
    "schedule": "cosine",
    "flip": True,
    "crop_padding": 4,
    "alpha": 0.0,
}


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
    return _ResNet(parameters.channels, parameters.classes, parameters.width)


class _ResNet(nn.Module):
    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, width, 3, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.bn1(self.conv1(x)))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.fc(h.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; 1×1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample.append(_convolution(inputs, outputs, 1, stride))
            self.downsample.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(h)) + self.downsample(x))


def _stage(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(inputs, outputs, stride), _Block(outputs, outputs, 1))


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    # Without a bias: the batch norm that follows has one.
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
