"""Registered models with their versions, workers, API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from service.ledger.database.db import Base, Instant
from service.ledger.database.states import VersionStatus
from service.ledger.database.tables.columns import DIGEST_LENGTH, NAME_LENGTH, state
from service.ledger.database.tables.datasets import Dataset

_CANDIDATE = "status = 'candidate'"
_GIVEN_UP = "status IN ('withdrawn', 'rejected')"


class ApiKey(Base):
    """A key that a client presents; only the hash of its secret is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)


class ConsoleSession(Base):
    """A sign-in to the console; only the hash of the secret in the browser's cookie is kept."""

    __tablename__ = "console_sessions"

    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    #: The key that signed in: what the session may do is what this key may do.
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)


class Capability(Base):
    """A capability of the workers: a method, an architecture, a recipe, a gate, criteria.

    Workers announce them here, so that the API can check options without loading torch.
    """

    __tablename__ = "capabilities"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    summary: Mapped[str] = mapped_column(Text)
    options_schema: Mapped[dict[str, Any]] = mapped_column(JSON)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    code_version: Mapped[str] = mapped_column(String(NAME_LENGTH))
    announced_at: Mapped[datetime] = mapped_column(Instant)
    #: When a worker announced itself without it.
    removed_at: Mapped[datetime | None] = mapped_column(Instant)


class Model(Base):
    """An architecture on a dataset with a training recipe and an unlearning policy."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    architecture: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: {name, options} of the kind of input of its dataset's rows.
    input: Mapped[dict[str, Any]] = mapped_column(JSON, nullable=True)
    transform: Mapped[dict[str, Any]] = mapped_column(JSON)
    recipe: Mapped[dict[str, Any]] = mapped_column(JSON)
    policy: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: {parameter name: [shape, dtype]}, found by the first worker that builds the model.
    parameters: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: Names of ``parameters`` that are one tensor, in groups; NULL until a worker has checked.
    tied: Mapped[list[list[str]] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    #: The alias ``production``.
    production_id: Mapped[int | None] = mapped_column(
        ForeignKey("versions.id", use_alter=True, name="fk_models_production_id_versions")
    )
    #: Set by ``batches:run-now``: a batch closes without waiting.
    run_now_at: Mapped[datetime | None] = mapped_column(Instant)
    #: The method that ``batches:run-now`` requested instead of the policy's.
    run_now_method: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(Instant)
    #: Since then it is never served, trained or imported.
    withdrawn_at: Mapped[datetime | None] = mapped_column(Instant)
    purged_at: Mapped[datetime | None] = mapped_column(Instant)

    dataset: Mapped[Dataset] = relationship(lazy="raise")
    production: Mapped[Version | None] = relationship(
        foreign_keys=[production_id], lazy="raise", post_update=True
    )


class Version(Base):
    """One immutable set of weights."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        Index("ix_versions_line_id_number", "line_id", "number"),
        Index("ix_versions_status_retired_at", "status", "retired_at"),
        # Candidates: looked for at each poll, few beside all the others.
        Index(
            "ix_versions_candidates",
            "model_id",
            sqlite_where=text(_CANDIDATE),
            postgresql_where=text(_CANDIDATE),
        ),
        # Versions that wait for their purge without having been retired.
        Index(
            "ix_versions_given_up",
            "model_id",
            sqlite_where=text(_GIVEN_UP),
            postgresql_where=text(_GIVEN_UP),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    number: Mapped[int]
    status: Mapped[VersionStatus] = mapped_column(state(VersionStatus))
    #: trained, imported, unlearned or retrained.
    origin: Mapped[str] = mapped_column(String(16))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    #: The trained, retrained or imported version that the chain starts from; an anchor's own id.
    anchor_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"), index=True)
    #: The first version of its line (``lineage``).
    line_id: Mapped[int | None]
    #: The anchor's training rows are those not excluded at this revision of the dataset ...
    data_revision: Mapped[int]
    #: ... of the records of this list; NULL: of the train split.
    #: No foreign key: to add one SQLite would have to rebuild a table that others refer to.
    record_list_id: Mapped[str | None] = mapped_column(String(40))
    #: ... and among the rows that the dataset had then: later ones were appended (``segments``).
    #: If a worker of an earlier release does not say it, the version counts as trained on all.
    data_rows: Mapped[int] = mapped_column(server_default="2147483647")
    #: It contains no record excluded at this revision of the dataset or before.
    clean_revision: Mapped[int] = mapped_column(default=0, server_default="0")
    #: Number of batches between the anchor and it.
    batches_since_anchor: Mapped[int] = mapped_column(default=0, server_default="0")
    #: {label: rows} that these batches forgot, and the labels forgotten as a class.
    forgotten_classes: Mapped[dict[str, int]] = mapped_column(JSON, default=dict, nullable=True)
    whole_classes: Mapped[list[int]] = mapped_column(JSON, default=list, nullable=True)
    #: Of an anchor: {label: rows} that it was trained on.
    trained_classes: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    training_run_id: Mapped[str | None] = mapped_column(ForeignKey("training_runs.id"))
    batch_id: Mapped[str | None] = mapped_column(
        ForeignKey("batches.id", use_alter=True, name="fk_versions_batch_id_batches"), index=True
    )
    method: Mapped[str | None] = mapped_column(String(NAME_LENGTH))
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    code_version: Mapped[str] = mapped_column(String(NAME_LENGTH))
    #: Numbers and words about how the weights came about (step length, history, ...).
    notes: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Seconds per step.
    timings: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: A warning recorded with the version, such as ``no_power``.
    mark: Mapped[str | None] = mapped_column(String(24))
    created_at: Mapped[datetime] = mapped_column(Instant)
    published_at: Mapped[datetime | None] = mapped_column(Instant)
    retired_at: Mapped[datetime | None] = mapped_column(Instant)
    withdrawn_at: Mapped[datetime | None] = mapped_column(Instant)
    #: When a withdrawn version is to be destroyed.
    purge_at: Mapped[datetime | None] = mapped_column(Instant)
    purged_at: Mapped[datetime | None] = mapped_column(Instant)


class Import(Base):
    """The state of an import: a worker measures the version before it may go live."""

    __tablename__ = "imports"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    #: Whether it is to go live; NULL: only if nothing is live when it has been measured.
    promote: Mapped[bool | None]
    #: Share of the rows that were scored.
    progress: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(Text)
    #: When it was decided; NULL: it waits to be measured.
    finished_at: Mapped[datetime | None] = mapped_column(Instant, index=True)


class Artifact(Base):
    """Internal state in the store that belongs to a version and may contain erased rows.

    Kinds: ``caches`` (an anchor's prepared quantities), ``states`` (running sums since the
    anchor), ``logs`` (update log of the training), ``scores`` (per-record losses kept for
    pooling), ``references`` (models trained to calibrate attacks), ``margins`` (of training rows
    under models that never saw them, or the targets made of these), ``statistics`` (sums from which
    a head was solved). Never served.
    """

    __tablename__ = "artifacts"
    __table_args__ = (
        Index("ix_artifacts_version_id_kind", "version_id", "kind"),
        Index(
            "ix_artifacts_kept",
            "kind",
            "version_id",
            sqlite_where=text("destroyed_at IS NULL"),
            postgresql_where=text("destroyed_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    kind: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    notes: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Instant)
    destroyed_at: Mapped[datetime | None] = mapped_column(Instant)


class AliasMove(Base):
    """One move of the alias ``production``; together the moves are its history."""

    __tablename__ = "alias_moves"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    #: None: the production version was withdrawn without a successor.
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    reason: Mapped[str] = mapped_column(String(40))
    moved_by: Mapped[str] = mapped_column(String(80))
    moved_at: Mapped[datetime] = mapped_column(Instant)


class Worker(Base):
    """A worker process, live until some time after ``seen_at``, which it updates as heartbeat."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    started_at: Mapped[datetime] = mapped_column(Instant)
    seen_at: Mapped[datetime] = mapped_column(Instant)
    #: {lane: since when it has been busy, RFC 3339, or null}.
    busy_since: Mapped[dict[str, Any]] = mapped_column(JSON)
    code_version: Mapped[str] = mapped_column(String(NAME_LENGTH))
    #: What it has counted since it began (``counts``); NULL: a worker of an earlier release.
    counts: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))


class EndedWorkers(Base):
    """The counts of all workers whose row was removed, in one row."""

    __tablename__ = "ended_workers"

    id: Mapped[int] = mapped_column(primary_key=True)
    counts: Mapped[dict[str, float]] = mapped_column(JSON)
