"""Decisions about every request that fits a filter."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant


class BulkDecision(Base):
    """One decision about many requests, and how far it has come."""

    __tablename__ = "bulk_decisions"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    #: A ``bulk.Action``.
    action: Mapped[str] = mapped_column(String(16))
    #: {condition: value} of ``bulk.Filter``.
    filter: Mapped[dict[str, Any]] = mapped_column(JSON)
    reason: Mapped[str | None] = mapped_column(Text)
    #: A ``lifecycle.DenialReason``, of a denial.
    reason_code: Mapped[str | None] = mapped_column(String(32))
    #: Who decided; nobody else can go on with it.
    actor: Mapped[str] = mapped_column(String(80))
    #: How many requests fitted when it was confirmed.
    matching: Mapped[int]
    #: Id of the last request that was decided about, or tried; "": none.
    place: Mapped[str] = mapped_column(String(40))
    #: Id of the last request that fitted when it was confirmed: later ones are not decided about.
    until: Mapped[str] = mapped_column(String(40))
    done: Mapped[int] = mapped_column(default=0)
    refused: Mapped[int] = mapped_column(default=0)
    #: [{request, detail}] of the first ones that were refused.
    refusals: Mapped[list[dict[str, str]]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
