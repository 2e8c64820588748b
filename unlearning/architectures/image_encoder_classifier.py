"""An image encoder that was trained elsewhere, and a linear layer on its pooled patches.

Images are resized to the encoder's size and normalised as its preprocessor_config.json says. What
is trained is chosen as for ``encoder_classifier``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le
from torch import Tensor, nn

from unlearning.architectures import _trained_part
from unlearning.architectures._encoders import Encoder, ImageEncoder
from unlearning.architectures._trained_part import EncoderNetwork
from unlearning.errors import WrongOptions

#: Parameters that name a file by its digest, and of which kind it is.
FILES = {"encoder": "encoders"}

#: Options of the recipe of models whose own recipe names no optimiser.
RECIPE = {"optimiser": "adamw", "learning_rate": 0.001, "weight_decay": 0.01}


@dataclass(frozen=True)
class Parameters(_trained_part.Parameters):
    """The encoder, what of it is trained, and the size of the input."""

    #: The ``first`` token, which stands for the image, or the ``mean`` of all tokens.
    pooling: Literal["mean", "first"] = "first"
    channels: Annotated[int, Ge(1), Le(64)] = 3
    image_height: Annotated[int, Ge(1), Le(4096)] = 224
    image_width: Annotated[int, Ge(1), Le(4096)] = 224


def build(parameters: Parameters, files: Mapping[str, Encoder]) -> nn.Module:
    """Return the network: images (n, channels, h, w) in [0, 1] to logits (n, classes)."""
    encoder = files["encoder"]
    if not isinstance(encoder, ImageEncoder):
        raise WrongOptions(
            f"the encoder is of the kind {encoder.kind}, which takes texts; choose the "
            "architecture encoder_classifier, or an encoder of images"
        )
    if parameters.channels != encoder.channels:
        raise WrongOptions(
            f"the dataset's images have {parameters.channels} channels, and the encoder takes "
            f"{encoder.channels}; ingest the images with as many"
        )
    return _ImageEncoderClassifier(parameters, encoder)


class _ImageEncoderClassifier(EncoderNetwork):
    def __init__(self, p: Parameters, encoder: ImageEncoder) -> None:
        super().__init__(encoder, p, pooling=p.pooling)
        self.preparation = encoder.preparation

    def forward(self, x: Tensor) -> Tensor:
        return self.classified(self.preparation(x), None)
