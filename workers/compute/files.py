"""What networks are built of beside their parameters: files of the store, by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from models_store import Store, errors
from models_store import tensors as stored
from unlearning import architectures
from unlearning.architectures import ImageEncoder, TextEncoder


@dataclass(frozen=True)
class Description:
    """An encoder's configuration, the digest of its weights, and what prepares its input.

    That is the digest of its tokenizer, or its preprocessor_config.json.
    """

    config: Mapping[str, Any]
    weights: str
    tokenizer: str | None
    preprocessor: Mapping[str, Any] | None


def description(store: Store, digest: str) -> Description:
    """Return the description of an encoder; raise ``Corrupt`` if it is damaged."""
    with store.blobs.open("encoders", digest) as file:
        content = file.read()
    if hashlib.sha256(content).hexdigest() != digest:
        raise errors.damaged_blob("encoders", digest)
    found = json.loads(content)
    return Description(
        found["config"], found["weights"], found.get("tokenizer"), found.get("preprocessor")
    )


def encoder(store: Store, digest: str) -> TextEncoder | ImageEncoder:
    """Return the encoder; raise ``WrongOptions`` if its files do not fit each other."""
    described = description(store, digest)
    weights = stored.load(store.blobs, described.weights, kind="encoders")
    named = {name: torch.from_numpy(array) for name, array in weights.items()}
    return architectures.encoder(described.config, named, described.preprocessor)
