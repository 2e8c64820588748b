"""Lists of records that were trained on elsewhere."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant
from service.ledger.database.tables.columns import DIGEST_LENGTH


class RecordList(Base):
    """Records of a dataset that a training elsewhere used; immutable."""

    __tablename__ = "record_lists"
    __table_args__ = (UniqueConstraint("dataset_id", "digest"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    #: sha256 of the rows in ascending order, 8 bytes each, little endian.
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    records: Mapped[int]
    created_by: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(Instant)


class RecordListRow(Base):
    """A row of a record list."""

    __tablename__ = "record_list_rows"

    list_id: Mapped[str] = mapped_column(ForeignKey("record_lists.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)
