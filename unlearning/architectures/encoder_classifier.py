"""A text encoder that was trained elsewhere, and a linear layer on its pooled tokens.

Trained, and changed by deletions, are the linear layer and, with ``last_layers``, the encoder's
last layers. The rest is as it came: it is in no checkpoint, and what it knows of a person it still
knows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt
from pydantic import StringConstraints
from torch import Tensor, nn

from unlearning.architectures._encoders import Encoder, pool, through
from unlearning.errors import WrongOptions

#: Parameters that name a file by its digest, and of which kind it is.
FILES = {"encoder": "encoders"}

#: Options of the recipe of models whose own recipe names no optimiser.
RECIPE = {"optimiser": "adamw", "learning_rate": 0.001, "weight_decay": 0.01}


@dataclass(frozen=True)
class Parameters:
    """The encoder, what of it is trained, and the size of the input."""

    #: Digest of the encoder: GET /v1/encoders lists those there are.
    encoder: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    #: ``mean`` of a row's tokens, or its ``first`` token.
    pooling: Literal["mean", "first"] = "mean"
    #: Layers of the encoder that are trained too, counted from its end.
    last_layers: Annotated[int, Ge(0), Le(48)] = 0
    #: Share of the pooled values that a training drops.
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    #: Number of token ids, and of tokens of a row.
    vocabulary: Annotated[int, Ge(2), Le(10_000_000)] = 30_522
    length: Annotated[int, Ge(1), Le(4096)] = 128
    classes: Annotated[int, Ge(2), Le(100_000)] = 2


def build(parameters: Parameters, files: Mapping[str, Encoder]) -> nn.Module:
    """Return the network: ids (n, l) int64 and mask (n, l) bool to logits (n, classes)."""
    encoder = files["encoder"]
    if parameters.last_layers > len(encoder.layers):
        raise WrongOptions(
            f"last_layers is {parameters.last_layers}, and the encoder has {len(encoder.layers)}"
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


class _EncoderClassifier(nn.Module):
    def __init__(self, p: Parameters, encoder: Encoder) -> None:
        super().__init__()
        self.pooling = p.pooling
        self.encoder = encoder  # no module: it is in no checkpoint and has no gradient
        self.frozen = len(encoder.layers) - p.last_layers
        self.layers = nn.ModuleList(copy.deepcopy(encoder.layers[self.frozen :]))
        self.layers.requires_grad_(True)
        self.dropout = nn.Dropout(p.dropout)
        self.head = nn.Linear(encoder.width, p.classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.encoder.until(self.frozen, ids, mask)
        for layer in self.layers:
            h = through(layer, h, mask)
        logits: Tensor = self.head(self.dropout(pool(h, mask, self.pooling)))
        return logits
