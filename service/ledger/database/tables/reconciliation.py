"""How far the check of completed requests has come."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant


class Reconciliation(Base):
    """How far the background check has looked at the audit chain, and at everything; one row."""

    __tablename__ = "reconciliation"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: The last line whose change was looked at.
    seq: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(Instant)
    #: When the last full proof began; NULL: one is due.
    full_at: Mapped[datetime | None] = mapped_column(Instant)
    #: The last version, and the last request, that it has looked at; NULL: it is not there (yet).
    full_version: Mapped[int | None]
    full_request: Mapped[str | None] = mapped_column(String(40))
