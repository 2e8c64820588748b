"""Shapes of common."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ConfigDict

from ..answers import Answer


class AuditEvent(Answer):
    """One line of the audit chain."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    data: Mapping[str, Any]
    previous_hash: str
    hash: str


class Signature(Answer):
    """An Ed25519 signature over the canonical JSON (RFC 8785) of the document without `value`."""

    algorithm: str
    key_id: str
    #: base64; compare it with the published keys
    public_key: str
    #: base64
    value: str


class Signed(Answer):
    """A signed document in canonical JSON; its other members are those of the document."""

    model_config = ConfigDict(extra="allow")

    signature: Signature
