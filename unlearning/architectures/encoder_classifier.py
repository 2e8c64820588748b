"""A text encoder that was trained elsewhere, and a linear layer on its pooled tokens.

Trained, and changed by deletions, are the linear layer and a part of the encoder: its last layers
(none, if nothing else is said), low-rank changes of its attention, or all of it. The rest is as it
came: it is in no checkpoint, and what it knows of a person it still knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le
from torch import Tensor, nn

from unlearning.architectures import _trained_part
from unlearning.architectures._encoders import Encoder, TextEncoder
from unlearning.architectures._trained_part import EncoderNetwork
from unlearning.errors import WrongOptions

#: Parameters that name a file by its digest, and of which kind it is.
FILES = {"encoder": "encoders"}

#: Options of the recipe of models whose own recipe names no optimiser.
RECIPE = {"optimiser": "adamw", "learning_rate": 0.001, "weight_decay": 0.01}


@dataclass(frozen=True)
class Parameters(_trained_part.Parameters):
    """The encoder, what of it is trained, and the size of the input."""

    #: ``mean`` of a row's tokens, or its ``first`` token.
    pooling: Literal["mean", "first"] = "mean"
    #: Number of token ids, and of tokens of a row.
    vocabulary: Annotated[int, Ge(2), Le(10_000_000)] = 30_522
    length: Annotated[int, Ge(1), Le(4096)] = 128


def build(parameters: Parameters, files: Mapping[str, Encoder]) -> nn.Module:
    """Return the network: ids (n, l) int64 and mask (n, l) bool to logits (n, classes)."""
    encoder = files["encoder"]
    if not isinstance(encoder, TextEncoder):
        raise WrongOptions(
            f"the encoder is of the kind {encoder.kind}, which takes images; choose the "
            "architecture image_encoder_classifier, or an encoder of texts"
        )
    for what, rows, most in (
        ("token ids", parameters.vocabulary, encoder.vocabulary),
        ("tokens in a row", parameters.length, encoder.length),
    ):
        if rows > most:
            raise WrongOptions(
                f"the dataset has up to {rows} {what}, and the encoder takes {most}; read the "
                "texts with the encoder's own tokenizer and a max_length that it takes"
            )
    return _EncoderClassifier(parameters, encoder)


class _EncoderClassifier(EncoderNetwork):
    def __init__(self, p: Parameters, encoder: TextEncoder) -> None:
        super().__init__(encoder, p, pooling=p.pooling)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.classified(ids, mask)
