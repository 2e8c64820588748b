"""Webhooks and the attempts to deliver to them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant
from service.ledger.database.states import WebhookStatus
from service.ledger.database.tables.columns import state


class Webhook(Base):
    """A receiver of events, and how far it has come in the audit chain."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(String(255))
    #: Types of the events that it is told; None: all.
    types: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[WebhookStatus] = mapped_column(state(WebhookStatus))
    #: Why it is disabled.
    status_reason: Mapped[str | None] = mapped_column(Text)
    #: A ``signatures.Scheme``.
    scheme: Mapped[str] = mapped_column(String(16))
    public_key: Mapped[str | None] = mapped_column(String(80))
    #: Encrypted (``sealing``); until ``previous_until`` the previous one signs as well.
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    previous_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_until: Mapped[datetime | None] = mapped_column(Instant)
    #: The last audit line whose event was delivered, or that has none for it.
    seq: Mapped[int] = mapped_column(BigInteger)
    #: Failed attempts since the last one that succeeded, and when the first of them was made.
    failures: Mapped[int] = mapped_column(default=0)
    failing_since: Mapped[datetime | None] = mapped_column(Instant)
    #: No attempt is made before.
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    delivered_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    created_by: Mapped[str] = mapped_column(String(80))


class WebhookDelivery(Base):
    """One attempt to deliver an event; kept for a while."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    #: The event's audit line.
    seq: Mapped[int] = mapped_column(BigInteger)
    event_id: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(Instant, index=True)
    seconds: Mapped[float] = mapped_column(Float)
    #: The receiver's HTTP status; None: no answer.
    answered: Mapped[int | None]
    #: Why it failed, in words of the service; None: it was delivered.
    error: Mapped[str | None] = mapped_column(String(255))
