"""Batches, what they hold, and the leases under which they run."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant
from service.ledger.database.states import BatchStatus
from service.ledger.database.tables.columns import DIGEST_LENGTH, state

_RUNNING = "status = 'running'"
_UNDER_WAY = "status IN ('running', 'held')"


class Batch(Base):
    """Erasures of one model that are unlearned together."""

    __tablename__ = "batches"
    __table_args__ = (
        Index(
            "uq_batches_running",
            "model_id",
            unique=True,
            sqlite_where=text(_RUNNING),
            postgresql_where=text(_RUNNING),
        ),
        # Running and held batches: what a claim and each poll look for.
        Index(
            "ix_batches_under_way",
            "model_id",
            sqlite_where=text(_UNDER_WAY),
            postgresql_where=text(_UNDER_WAY),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    status: Mapped[BatchStatus] = mapped_column(state(BatchStatus))
    #: records or class: one batch never mixes the two kinds of forgetting.
    kind: Mapped[str] = mapped_column(String(16))
    #: How many rows it forgets.
    records: Mapped[int] = mapped_column(default=0, server_default="0")
    #: These rows, ascending, until a version without them is registered: then they are listed in
    #: ``batch_records`` and this is None.
    rows: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    #: Ranges of ids, ``[[first, last], …]``, in which its erasures lie among others; None: unknown.
    members: Mapped[list[list[int]] | None] = mapped_column(JSON(none_as_null=True))
    base_version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"), index=True)
    #: The method requested by run-now; None: the policy's.
    method: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    seed: Mapped[int] = mapped_column(BigInteger)
    #: Fence of the model's lease under which it was last claimed; 0: left to the trainings lane.
    fence: Mapped[int] = mapped_column(BigInteger)
    #: Its next method trains, so only the trainings lane takes it.
    trains: Mapped[bool] = mapped_column(default=False)
    #: Methods tried before it was left to that lane: ``[{"choice": …, "refusal": …,
    #: "lasting": whether another attempt would end the same way}]``.
    tried: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    attempts: Mapped[int] = mapped_column(default=1)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant)
    #: Of a held batch: when its version goes live by itself.
    held_until: Mapped[datetime | None] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)


class BatchState(Base):
    """The kept state of a batch's retrain; a worker that takes the batch over resumes from it."""

    __tablename__ = "batch_states"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    #: The choice of method that left it, and the settings that its training began with.
    method: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    data_revision: Mapped[int]
    #: It will not be resumed and is to be destroyed.
    given_up: Mapped[bool] = mapped_column(default=False)


class BatchRecord(Base):
    """A row of the base version's training data that a batch with a version forgets."""

    __tablename__ = "batch_records"
    __table_args__ = (Index("ix_batch_records_row_batch_id", "row", "batch_id"),)

    #: No foreign key, here and in ``erasures``: the batch is inserted by the same transaction and
    #: never deleted, and the key would be checked for each row.
    batch_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)


class Lease(Base):
    """The right to work on something until a time; the fence grows with every new holder."""

    __tablename__ = "leases"
    __table_args__ = (
        # Rows stay when nobody holds them any more.
        Index(
            "ix_leases_held",
            "key",
            sqlite_where=text("owner IS NOT NULL"),
            postgresql_where=text("owner IS NOT NULL"),
        ),
    )

    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(80))
    until: Mapped[datetime] = mapped_column(Instant)
    #: When it was taken or last renewed; None: by an earlier release.
    renewed_at: Mapped[datetime | None] = mapped_column(Instant)
    #: When its holder took it; None: by an earlier release.
    taken_at: Mapped[datetime | None] = mapped_column(Instant)
    #: What its holder has computed for it last (a name of ``service.messages``), and how far that
    #: is, 0 to 1; None: nothing that takes long, or nothing that says how far it is.
    doing: Mapped[str | None] = mapped_column(String(24))
    progress: Mapped[float | None]
    fence: Mapped[int] = mapped_column(BigInteger)
