"""Copies of versions in a model registry outside the service."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant

_THERE = text("removed_at IS NULL")
_WHERE: dict[str, Any] = {"sqlite_where": _THERE, "postgresql_where": _THERE}


class RegistryCopy(Base):
    """A version that is, or may be, in the registry; the row is written before anything is sent."""

    __tablename__ = "registry_copies"
    __table_args__ = (Index("ix_registry_copies_there", "version_id", **_WHERE),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    #: Its number in the registry, which counts for itself.
    number: Mapped[str | None] = mapped_column(String(32))
    #: Whether the registry's alias points at it.
    is_live: Mapped[bool] = mapped_column(default=False)
    begun_at: Mapped[datetime] = mapped_column(Instant)
    registered_at: Mapped[datetime | None] = mapped_column(Instant)
    #: Since then it is not there any more, with all its files.
    removed_at: Mapped[datetime | None] = mapped_column(Instant)
    #: Failed attempts since the last one that succeeded, and when the first of them was made.
    failures: Mapped[int] = mapped_column(default=0)
    failing_since: Mapped[datetime | None] = mapped_column(Instant)
    #: No attempt is made before.
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    #: Why the last attempt failed, in words of the service; None: it did not.
    error: Mapped[str | None] = mapped_column(String(255))
