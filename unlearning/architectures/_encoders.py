"""Encoders that were trained elsewhere, with frozen weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unlearning.architectures import _encoder_files, _preprocessing
from unlearning.errors import WrongOptions


class Encoder:
    """An encoder's frozen layers: its input to h (n, l, width) float32.

    No part of a network that uses it: its weights are in no checkpoint, and copies share it.
    """

    def __init__(self, body: Any, stem: nn.Module, layers: nn.ModuleList, norm: nn.Module) -> None:
        self.kind = str(body.config.model_type)
        self.width = int(body.config.hidden_size)
        self.parameters = sum(p.numel() for p in body.parameters())
        #: What comes before the layers, the layers, and what comes after them.
        self.stem, self.layers, self.norm = stem, list(layers), norm

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        return self

    def until(self, layer: int, given: Tensor, mask: Tensor | None) -> Tensor:
        """Return what stem and the first ``layer`` layers make of the input, without a gradient.

        ``given`` are ids (n, l) int64 or prepared images (n, channels, height, width).
        """
        self.move(given.device)
        with torch.no_grad():
            h: Tensor = self.stem(given)
            for one in self.layers[:layer]:
                h = through(one, h, mask)
        return h

    def pooled(self, given: Tensor, mask: Tensor | None, *, pooling: str) -> Tensor:
        """Return the features (n, width) of all layers."""
        with torch.no_grad():
            return pool(self.norm(self.until(len(self.layers), given, mask)), mask, pooling)

    def move(self, device: torch.device) -> None:
        """Move the weights to the device, unless they are there."""
        if next(self.stem.parameters()).device != device:
            for module in (self.stem, *self.layers, self.norm):
                module.to(device)


class TextEncoder(Encoder):
    """An encoder of token ids (n, l) int64 with a mask (n, l) bool."""

    def __init__(self, body: Any) -> None:
        # Of kinds whose embeddings are narrower than their layers.
        projection: nn.Module = getattr(body, "embeddings_project", nn.Identity())
        stem = _Embedded(body.embeddings, projection)
        super().__init__(body, stem, body.encoder.layer, nn.Identity())
        self.vocabulary = int(body.config.vocab_size)
        self.length = _positions(body.config)


class ImageEncoder(Encoder):
    """An encoder of images (n, channels, height, width) of values in [0, 1]."""

    def __init__(self, body: Any, preprocessor: Mapping[str, Any]) -> None:
        super().__init__(body, body.embeddings, body.layers, body.layernorm)
        config = body.config
        size = config.image_size
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.channels = int(config.num_channels)
        self.preparation = _preprocessing.read(preprocessor, size=self.size, channels=self.channels)


class _Embedded(nn.Module):
    def __init__(self, embeddings: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.embeddings, self.projection = embeddings, projection

    def forward(self, ids: Tensor) -> Tensor:
        h: Tensor = self.projection(self.embeddings(input_ids=ids))
        return h


def opened(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    preprocessor: Mapping[str, Any] | None = None,
) -> TextEncoder | ImageEncoder:
    """Return the encoder of a config.json and weights, and of images the preprocessor_config.json.

    Raise ``WrongOptions`` if they do not fit each other.
    """
    body = _encoder_files.built(config, weights)
    if config["model_type"] in _encoder_files.TEXT_KINDS:
        return TextEncoder(body)
    if preprocessor is None:
        raise WrongOptions("an image encoder needs its preprocessor_config.json")
    return ImageEncoder(body, preprocessor)


def through(layer: nn.Module, h: Tensor, mask: Tensor | None) -> Tensor:
    """Return what a layer makes of ``h`` (n, l, width), attending to where ``mask`` is true."""
    found = layer(h, attention_mask=None if mask is None else mask[:, None, None, :])
    made: Tensor = found[0] if isinstance(found, tuple) else found
    return made


def pool(h: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Return a row's mean over its tokens, or its first token, (n, width) of h (n, l, width)."""
    if pooling == "first":
        return h[:, 0]
    if mask is None:
        return h.mean(1)
    kept = mask[:, :, None].to(h.dtype)
    return (h * kept).sum(1) / kept.sum(1).clamp(min=1)


def _positions(config: Any) -> int:
    """Return the longest row: kinds that count positions from the padding id lose those below."""
    positions = int(config.max_position_embeddings)
    if config.model_type in ("roberta", "xlm-roberta"):
        if config.pad_token_id is None:
            raise WrongOptions("config.json has no pad_token_id, and this encoder counts from it")
        return positions - int(config.pad_token_id) - 1
    return positions
