"""Files that datasets and models use, by their digests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant
from service.ledger.database.states import EncoderStatus
from service.ledger.database.tables.columns import DIGEST_LENGTH, NAME_LENGTH, state


class Encoder(Base):
    """An encoder that was trained elsewhere: its files in the store, once a worker checked them."""

    __tablename__ = "encoders"

    name: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    status: Mapped[EncoderStatus] = mapped_column(state(EncoderStatus), index=True)
    #: The directory that it is read from.
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: What the operator says about the data that it was trained on.
    statement: Mapped[str] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    #: Attempts to check it that failed, perhaps for a fault of the machine.
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    #: Once it is ready: sha256 of its description in the store, which names its other files, ...
    digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH), index=True)
    #: ... of its weights and of its tokenizer (an encoder of images has none), and what a worker
    #: found it to be.
    weights_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    tokenizer_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_by: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(Instant)
    ready_at: Mapped[datetime | None] = mapped_column(Instant)


class Tokenizer(Base):
    """A tokenizer.json in the store; immutable, and kept for the appends of its datasets."""

    __tablename__ = "tokenizers"

    #: sha256 of the file, its name in the store.
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    size_bytes: Mapped[int]
    created_by: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(Instant)
