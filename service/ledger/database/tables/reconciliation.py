"""Progress of the background check of completed requests."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant


class Reconciliation(Base):
    """Progress of the reconciler in the audit chain and in its full check; one row."""

    __tablename__ = "reconciliation"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: The last audit line whose change was checked.
    seq: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(Instant)
    #: When the last full check began; NULL: one is due.
    full_at: Mapped[datetime | None] = mapped_column(Instant)
    #: The last version, and the last request, that it has checked; NULL: none yet.
    full_version: Mapped[int | None]
    full_request: Mapped[str | None] = mapped_column(String(40))
