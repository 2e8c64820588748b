"""A small transformer encoder for token ids: attention over a row's tokens, their mean, one layer.

Vaswani et al., Attention Is All You Need (2017), section 3, with the layer norm before each part
instead of after it (Xiong et al., On Layer Normalization in the Transformer Architecture, 2020),
which trains without a warm-up, and with learned positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn
from torch.nn import functional

from unlearning.errors import WrongOptions

#: Options of the recipe of models whose own recipe names no optimiser.
RECIPE = {"optimiser": "adamw", "learning_rate": 0.001, "weight_decay": 0.01}


@dataclass(frozen=True)
class Parameters:
    """Size of the input and of the network."""

    #: Number of token ids, and of tokens of a row.
    vocabulary: Annotated[int, Ge(2), Le(10_000_000)] = 30_522
    length: Annotated[int, Ge(1), Le(4096)] = 128
    classes: Annotated[int, Ge(2), Le(100_000)] = 2
    #: Numbers for each token; a multiple of ``heads``.
    width: Annotated[int, Ge(1), Le(4096)] = 128
    heads: Annotated[int, Ge(1), Le(64)] = 4
    layers: Annotated[int, Ge(1), Le(48)] = 2
    #: Units of each layer's hidden part.
    hidden: Annotated[int, Ge(1), Le(16_384)] = 256
    #: Share of values that a training drops.
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1


def build(parameters: Parameters) -> nn.Module:
    """Return the untrained network: ids (n, l) int64 and mask (n, l) bool to logits (n, classes).

    l may be less than ``length``; the mask is true where a row has a token.
    """
    if parameters.width % parameters.heads:
        raise WrongOptions("width must be a multiple of heads: each head gets the same share of it")
    return _Transformer(parameters)


class _Transformer(nn.Module):
    def __init__(self, p: Parameters) -> None:
        super().__init__()
        self.tokens = nn.Embedding(p.vocabulary, p.width)
        self.positions = nn.Embedding(p.length, p.width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.dropout = nn.Dropout(p.dropout)
        self.layers = nn.ModuleList(_Layer(p) for _ in range(p.layers))
        self.norm = nn.LayerNorm(p.width)
        self.head = nn.Linear(p.width, p.classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        h = self.dropout(self.tokens(ids) + self.positions(places))
        for layer in self.layers:
            h = layer(h, mask)
        kept = mask[:, :, None].to(h.dtype)
        logits: Tensor = self.head((self.norm(h) * kept).sum(1) / kept.sum(1).clamp(min=1))
        return logits


class _Layer(nn.Module):
    """h + attention(norm(h)), and then h + hidden part(norm(h))."""

    def __init__(self, p: Parameters) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(p.width), nn.LayerNorm(p.width)
        self.attention = _Attention(p)
        self.inner, self.outer = nn.Linear(p.width, p.hidden), nn.Linear(p.hidden, p.width)
        self.dropout = nn.Dropout(p.dropout)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        h = h + self.dropout(self.attention(self.norm1(h), mask))
        made: Tensor = self.dropout(self.outer(functional.gelu(self.inner(self.norm2(h)))))
        return h + made


class _Attention(nn.Module):
    """Softmax over the tokens of the row, separately for each head.

    Query, key and value are linear layers of their own, so that each has a curvature block.
    """

    def __init__(self, p: Parameters) -> None:
        super().__init__()
        self.heads = p.heads
        self.query, self.key, self.value, self.out = (nn.Linear(p.width, p.width) for _ in range(4))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        found = functional.scaled_dot_product_attention(
            self._split(self.query(h)),
            self._split(self.key(h)),
            self._split(self.value(h)),
            attn_mask=mask[:, None, None, :],
        )
        joined: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return joined

    def _split(self, h: Tensor) -> Tensor:
        """Return (n, heads, l, width / heads) of (n, l, width)."""
        n, length, width = h.shape
        return h.view(n, length, self.heads, width // self.heads).transpose(1, 2)
