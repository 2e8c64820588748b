"""Schemas of bodies that several nouns share."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api import deps

DatasetName = Annotated[str, StringConstraints(pattern=deps.NAME_PATTERN)]


_MOMENT = re.compile(r"(19[7-9]|[2-8]\d\d)\d-\d\d-\d\d[Tt ]")


def moment(text: object) -> object:
    """Return a text that begins as RFC 3339 has it; raise ``ValueError`` for any other value.

    By default pydantic also accepts seconds since 1970, and years that no database stores.
    """
    if not (isinstance(text, str) and _MOMENT.match(text)):
        raise ValueError("give a moment as RFC 3339 has it, such as 2026-05-25T00:00:00Z")
    return text


class Body(BaseModel):
    """A request body: unknown fields are refused and values are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AuditEvent(BaseModel):
    """One line of the audit chain."""

    seq: int = Field(examples=[17])
    at: datetime
    actor: str = Field(examples=["key:key_01k0c9m2vq8f4t6x3z5b7n1r9d"])
    action: str = Field(examples=["deletion_request:accepted"])
    subject: str = Field(examples=["deletion_request:dr_01k0c9m2vq8f4t6x3z5b7n1r9d"])
    data: dict[str, Any]
    previous_hash: str
    hash: str


class Signature(BaseModel):
    """An Ed25519 signature over the canonical JSON (RFC 8785) of the document without `value`."""

    algorithm: str = Field(examples=["Ed25519"])
    key_id: str
    public_key: str = Field(description="base64; compare it with the published keys")
    value: str = Field(description="base64")


class Signed(BaseModel):
    """A signed document in canonical JSON; its other members are those of the document."""

    model_config = {"extra": "allow"}

    signature: Signature
