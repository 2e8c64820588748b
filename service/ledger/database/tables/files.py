"""Files that datasets and models use, by their digests."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant
from service.ledger.database.tables.columns import DIGEST_LENGTH


class Tokenizer(Base):
    """A tokenizer.json in the store; immutable, and kept for the appends of its datasets."""

    __tablename__ = "tokenizers"

    #: sha256 of the file, its name in the store.
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    size_bytes: Mapped[int]
    created_by: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(Instant)
