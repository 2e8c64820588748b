"""The part of an encoder that a network trains: none, its last layers, low-rank changes, or all.

With ``lora`` a frozen projection W of an attention computes

    W·x + b + (α / r) · B·A·x,

A (r, in) drawn at random and B (out, r) zero at first (Hu et al., LoRA: Low-Rank Adaptation of
Large Language Models, 2021, section 4.1). Only A and B are in a checkpoint; W + (α / r)·B·A is the
merged weight.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import StringConstraints
from torch import Tensor, nn

from unlearning.architectures._encoders import Encoder, pool, through
from unlearning.errors import WrongOptions


@dataclass(frozen=True)
class Parameters:
    """The encoder, and what is trained: the parameters of both architectures."""

    #: Digest of the encoder: GET /v1/encoders lists those there are.
    encoder: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    #: What is trained beside the head: ``last_layers``, low-rank changes of the attention's
    #: projections (``lora``), or ``all`` of the encoder.
    trained: Literal["last_layers", "lora", "all"] = "last_layers"
    #: Layers of the encoder that are trained too, counted from its end.
    last_layers: Annotated[int, Ge(0), Le(48)] = 0
    #: Rank of the changes with ``lora``; they are scaled by lora_alpha / lora_rank.
    lora_rank: Annotated[int, Ge(1), Le(256)] = 8
    lora_alpha: Annotated[float, Gt(0), Le(1024)] = 16.0
    #: Share of the pooled values that a training drops.
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    classes: Annotated[int, Ge(2), Le(100_000)] = 2

    def check(self, encoder: Encoder) -> None:
        """Raise ``WrongOptions`` if the encoder has no such part."""
        if self.trained != "last_layers" and self.last_layers:
            raise WrongOptions(
                f"last_layers is given and trained is {self.trained}; leave one of the two out"
            )
        if self.last_layers > len(encoder.layers):
            raise WrongOptions(
                f"last_layers is {self.last_layers}, and the encoder has {len(encoder.layers)}"
            )
        if self.trained == "lora" and self.lora_rank > encoder.width:
            raise WrongOptions(
                f"lora_rank is {self.lora_rank}, and the encoder's width {encoder.width}; choose a "
                "rank far below"
            )


class EncoderNetwork(nn.Module):
    """An encoder with a trained part, and a linear layer on its pooled tokens."""

    def __init__(self, encoder: Encoder, part: Parameters, *, pooling: str) -> None:
        super().__init__()
        part.check(encoder)
        self.encoder = encoder  # no module: it is in no checkpoint and has no gradient
        self.pooling = pooling
        self.frozen = 0 if part.trained != "last_layers" else len(encoder.layers) - part.last_layers
        self.adapted: _Adapted | None = None
        self.stem: nn.Module | None = None
        self.norm: nn.Module | None = None
        if part.trained == "all":
            self.stem, self.norm = _own(encoder.stem), _own(encoder.norm)
        if part.trained == "lora":
            self.adapted = _Adapted(encoder, part)
            self.adapters = nn.ModuleList(self.adapted.adapters)
        else:
            self.layers = nn.ModuleList(_own(one) for one in encoder.layers[self.frozen :])
        self.dropout = nn.Dropout(part.dropout)
        self.head = nn.Linear(encoder.width, part.classes)

    def classified(self, given: Tensor, mask: Tensor | None) -> Tensor:
        """Return logits (n, classes) of ids or prepared images, see ``Encoder.until``."""
        if self.stem is not None:
            return self.after(self.stem(given), mask)
        return self.after(self.encoder.until(self.frozen, given, mask), mask)

    def after(self, h: Tensor, mask: Tensor | None) -> Tensor:
        """Return logits (n, classes) of what the frozen layers made, h (n, l, width)."""
        for layer in self.layers if self.adapted is None else self.adapted.at(h.device):
            h = through(layer, h, mask)
        norm = self.encoder.norm if self.norm is None else self.norm
        logits: Tensor = self.head(self.dropout(pool(norm(h), mask, self.pooling)))
        return logits


def _own(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(True)


class _Adapted:
    """An encoder's layers with low-rank changes; no module, so that only these are a network's."""

    def __init__(self, encoder: Encoder, part: Parameters) -> None:
        self.frozen = [p for layer in encoder.layers for p in layer.parameters()]
        self.layers = self._shared(encoder.layers, {})
        self.adapters = [_adapt(layer.attention, part) for layer in self.layers]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Adapted:
        made = object.__new__(_Adapted)
        made.frozen = self.frozen
        made.layers = self._shared(self.layers, memo)
        made.adapters = copy.deepcopy(self.adapters, memo)
        return made

    def _shared(self, layers: Any, memo: dict[int, Any]) -> Any:
        """Return a copy of the layers that shares the frozen weights."""
        memo |= {id(p): p for p in self.frozen}
        return copy.deepcopy(layers, memo)

    def at(self, device: torch.device) -> list[nn.Module]:
        """Return the layers, with the frozen weights on the device."""
        if self.frozen[0].device != device:
            for layer in self.layers:
                layer.to(device)
        found: list[nn.Module] = self.layers
        return found


class _LowRank(nn.Module):
    """(α / r)·B·A·x, zero until it is trained."""

    def __init__(self, projection: nn.Linear, part: Parameters) -> None:
        super().__init__()
        self.down = nn.Linear(projection.in_features, part.lora_rank, bias=False)
        self.up = nn.Linear(part.lora_rank, projection.out_features, bias=False)
        self.factor = part.lora_alpha / part.lora_rank
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.factor * self.up(self.down(x))
        return changed


class _Sum(nn.Module):
    """A frozen projection plus its low-rank change."""

    def __init__(self, projection: nn.Linear, change: _LowRank) -> None:
        super().__init__()
        self.projection, self.change = projection, change

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.projection(x) + self.change(x)
        return found


def _adapt(attention: nn.Module, part: Parameters) -> nn.ModuleDict:
    """Give each projection of an attention a low-rank change, in place; return the changes."""
    changes = nn.ModuleDict()
    projections = {
        name: one for name, one in attention.named_modules() if isinstance(one, nn.Linear)
    }
    for name, projection in projections.items():
        changes[name.replace(".", "_")] = change = _LowRank(projection, part)
        owner, _, last = name.rpartition(".")
        setattr(attention.get_submodule(owner), last, _Sum(projection, change))
    return changes
