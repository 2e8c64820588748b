"""Measurements of versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant


class Verification(Base):
    """The measured metrics of a version and the verdict of the policy's gates."""

    __tablename__ = "verifications"

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), unique=True)
    verdict: Mapped[str] = mapped_column(String(16))
    measured: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: {"revision": the dataset's revision that was measured on, "rows": {set, or forget: by how few
    #: rows it differs from a shown one; 0: it is shown here}, "pair_again": true if the weights of
    #: version and base were measured on other rows before}. None: no whole set is shown.
    set_changes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(Instant)


class RecordScore(Base):
    """What attacks say of one forgotten row of a version; destroyed with the raw row."""

    __tablename__ = "record_scores"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    #: By metric, its figures of the row.
    scores: Mapped[dict[str, Any]] = mapped_column(JSON)


class ShownSet(Base):
    """A sample of a whole set whose figures were shown; by dataset, record list, rows, revision."""

    __tablename__ = "shown_sets"
    __table_args__ = (
        UniqueConstraint("dataset_id", "name", "list_id", "data_rows", "below", "revision"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    #: retain, calibration or audit.
    name: Mapped[str] = mapped_column(String(16))
    #: The record list of the versions that it is a set of; empty: the train split.
    list_id: Mapped[str] = mapped_column(String(40))
    #: Of how many rows of the dataset it is a set (``Version.data_rows``).
    data_rows: Mapped[int] = mapped_column(server_default="0")
    #: Limit of its rows' places (``service.messages.sampling``); ``PLACES``: the whole set.
    below: Mapped[int]
    #: How many rows it had; None: not known, of what was shown before samples had limits.
    size: Mapped[int | None]
    #: The newest revision of the dataset at which it had these rows when figures were shown.
    revision: Mapped[int]
