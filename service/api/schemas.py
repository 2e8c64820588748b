"""Schemas of bodies that several nouns share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api import deps

DatasetName = Annotated[str, StringConstraints(pattern=deps.NAME_PATTERN)]


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
