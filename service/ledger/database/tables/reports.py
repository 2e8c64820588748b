"""What was measured of versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant


class Verification(Base):
    """The measured metrics of a version and the verdict of the policy's gates."""

    __tablename__ = "verifications"

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), unique=True)
    verdict: Mapped[str] = mapped_column(String(16))
    measured: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: {"revision": the dataset's revision that was measured on, "rows": {set: rows that left it
    #: since its figures were last shown; 0: they are shown here}}. None: nothing is shown.
    set_changes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(Instant)
