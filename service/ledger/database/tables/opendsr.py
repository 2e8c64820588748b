"""Requests that arrived as OpenDSR has them, and the callbacks about them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant
from service.ledger.database.tables.columns import DIGEST_LENGTH, NAME_LENGTH

_TO_TELL: dict[str, Any] = {
    "sqlite_where": text("ended_at IS NULL"),
    "postgresql_where": text("ended_at IS NULL"),
}


class OpenDsrRequest(Base):
    """A controller's request; what it asks for is done by the deletion requests that it has."""

    __tablename__ = "opendsr_requests"
    __table_args__ = (UniqueConstraint("controller", "subject_request_id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    #: Name of the API keys by which the controller asks.
    controller: Mapped[str] = mapped_column(String(NAME_LENGTH))
    #: The controller's own id, a UUID.
    subject_request_id: Mapped[str] = mapped_column(String(36))
    #: Keyed digest of the body, by which a repetition is told from another request.
    body_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    received_at: Mapped[datetime] = mapped_column(Instant)


class OpenDsrPart(Base):
    """One of the deletion requests of an OpenDSR request: one for each subject id that it names."""

    __tablename__ = "opendsr_parts"

    opendsr_id: Mapped[str] = mapped_column(ForeignKey("opendsr_requests.id"), primary_key=True)
    request_id: Mapped[str] = mapped_column(
        ForeignKey("deletion_requests.id"), primary_key=True, index=True
    )


class OpenDsrCallback(Base):
    """An address of a controller's that is told of each state of one request."""

    __tablename__ = "opendsr_callbacks"
    __table_args__ = (Index("ix_opendsr_callbacks_to_tell", "id", **_TO_TELL),)

    id: Mapped[int] = mapped_column(primary_key=True)
    opendsr_id: Mapped[str] = mapped_column(ForeignKey("opendsr_requests.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    #: The ``opendsr.requests.Status`` that it was told last; at first that of the answer.
    told: Mapped[str] = mapped_column(String(16))
    #: Nothing more is to be told, or it was given up; None: there may be.
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    #: Failed attempts since the last one that succeeded, and when the first of them was made.
    failures: Mapped[int] = mapped_column(default=0)
    failing_since: Mapped[datetime | None] = mapped_column(Instant)
    #: No attempt is made before.
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    delivered_at: Mapped[datetime | None] = mapped_column(Instant)
    #: Why the last attempt failed, in words of the service; None: it did not.
    error: Mapped[str | None] = mapped_column(String(255))
