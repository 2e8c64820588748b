"""Shapes of encoders."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from ..answers import Answer, Given, Word


class DirectoryGiven(Given):
    """A directory under the server's data root, or in a bucket."""

    #: relative to the configured data root, or s3://bucket/… where the settings allow it; it holds
    #: config.json, model.safetensors and tokenizer.json, or of an encoder of images
    #: preprocessor_config.json
    path: str


class EncoderStatus(StrEnum):
    """An encoder that was trained elsewhere."""

    CHECKING = "checking"
    READY = "ready"
    FAILED = "failed"


class FactsView(Answer):
    """What the encoder is."""

    #: model_type of its config.json
    kind: str
    #: numbers for each token
    width: int
    layers: int
    parameters: int
    #: of its weights
    size_bytes: int
    #: of texts: token ids that it takes
    vocabulary: int | None = None
    #: of texts: tokens of a row that it takes
    length: int | None = None
    #: of texts: token id that fills rows up
    pad: int | None = None
    #: of images: channels that they have
    channels: int | None = None
    #: of images: pixels, to which every image is resized
    image_height: int | None = None
    image_width: int | None = None


class EncoderView(Answer):
    """An encoder."""

    name: str
    status: Word[EncoderStatus]
    #: why its files were refused
    error: str | None
    source: Mapping[str, Any]
    #: what the operator says of the data it was trained on
    statement: str
    #: of all its files: architecture.parameters.encoder of models names it
    digest: str | None
    #: sha256 of model.safetensors
    weights: str | None
    #: sha256 of its tokenizer.json, with which its datasets are read; an encoder of images has
    #: none
    tokenizer: str | None
    facts: FactsView | None
    created_at: datetime
    ready_at: datetime | None
