"""Training runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant
from service.ledger.database.states import RunStatus
from service.ledger.database.tables.columns import DIGEST_LENGTH, state

_RUNS_TO_DO = "status IN ('queued', 'running')"


class TrainingRun(Base):
    """Training of a new anchor."""

    __tablename__ = "training_runs"
    __table_args__ = (
        Index(
            "uq_training_runs_active",
            "model_id",
            unique=True,
            sqlite_where=text(_RUNS_TO_DO),
            postgresql_where=text(_RUNS_TO_DO),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    status: Mapped[RunStatus] = mapped_column(state(RunStatus), index=True)
    #: initial, consolidate or request.
    reason: Mapped[str] = mapped_column(String(24))
    seed: Mapped[int] = mapped_column(BigInteger)
    #: The dataset's revision when its rows were read; an attempt that resumes a kept state keeps
    #: it, any other sets it anew.
    data_revision: Mapped[int | None]
    progress: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Its results after each epoch, as the compute process sends them (``messages.train.Curve``).
    curve: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: The sets that it trains and validates on: ``asked``, the revision whose rows they are taken
    #: from, if one was given; and, once it has begun, by how few ``rows`` they differ from those
    #: shown before, as for a verification. Without ``rows`` nothing of them is shown.
    set_changes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: The state after its last finished epoch, in the store under ``trainings``; it contains
    #: information about rows, is never served and is destroyed when the run ends.
    state_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime | None] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)
