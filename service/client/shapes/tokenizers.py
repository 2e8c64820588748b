"""Shapes of tokenizers."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from datetime import datetime

from ..answers import Answer


class TokenizerView(Answer):
    """A tokenizer.json."""

    #: sha256 of the file: a source names it as input.options
    digest: str
    size_bytes: int
    created_at: datetime
