"""Every table of the ledger.

Rows are numbers in a dataset's array; ``records`` gives each its public name. Which records a
version was trained on is never guessed: an anchor (a trained or imported version) saw every row
of the train split, or of the record list that it was imported with, that was not excluded at its
``data_revision``, and the batches between the anchor and a version list what was forgotten since.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from service.ledger.database.db import Base, Instant
from service.ledger.database.identifiers import Case, Origin
from service.ledger.database.states import (
    BatchStatus,
    DatasetStatus,
    ErasureStatus,
    InspectionStatus,
    RequestStatus,
    RunStatus,
    VersionStatus,
)

_OPEN_ERASURES = "status IN ('pending', 'claimed', 'needs_review')"
_RUNNING = "status = 'running'"
_UNDER_WAY = "status IN ('running', 'held')"
_CANDIDATE = "status = 'candidate'"
_GIVEN_UP = "status IN ('withdrawn', 'rejected')"
_RUNS_TO_DO = "status IN ('queued', 'running')"

NAME_LENGTH = 64
DIGEST_LENGTH = 64


def _state(kind: type[StrEnum]) -> Enum:
    # Stored as its word and checked by the code's table of moves: a new state is no migration.
    return Enum(
        kind,
        native_enum=False,
        create_constraint=False,
        length=24,
        values_callable=lambda members: [member.value for member in members],
    )


class ApiKey(Base):
    """A key that a client shows; only the hash of its secret is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)


class IdempotencyKey(Base):
    """The answer already given to one principal for one ``Idempotency-Key``."""

    __tablename__ = "idempotency_keys"

    principal: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    answer: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


class Capability(Base):
    """What the installed workers can do: a method, an architecture, a recipe, a gate, criteria.

    Workers announce themselves here, so that the API can check options without loading torch.
    """

    __tablename__ = "capabilities"

    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    summary: Mapped[str] = mapped_column(Text)
    options_schema: Mapped[dict[str, Any]] = mapped_column(JSON)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    code_version: Mapped[str] = mapped_column(String(NAME_LENGTH))
    announced_at: Mapped[datetime] = mapped_column(Instant)
    #: When a worker announced itself that does not have it.
    removed_at: Mapped[datetime | None] = mapped_column(Instant)


class Dataset(Base):
    """Ingested training data."""

    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    status: Mapped[DatasetStatus] = mapped_column(_state(DatasetStatus))
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Key of the array in the store, set when the dataset becomes ready.
    array_key: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    rows: Mapped[int | None]
    shape: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    dtype: Mapped[str | None] = mapped_column(String(16))
    classes: Mapped[int | None]
    #: Rows of each split, by its name: they never change, and counting them reads every record.
    split_rows: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    #: Where the ids come from, set when the dataset becomes ready: a request by ids that the
    #: source does not have cannot be answered.
    record_id_origin: Mapped[Origin | None] = mapped_column(_state(Origin))
    subject_id_origin: Mapped[Origin | None] = mapped_column(_state(Origin))
    #: What the source says of ids that differ by case; None: it has none that do.
    id_case: Mapped[Case | None] = mapped_column(_state(Case))
    #: Grows by one each time records are excluded from training.
    revision: Mapped[int] = mapped_column(default=0)
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant)
    ready_at: Mapped[datetime | None] = mapped_column(Instant)
    withdrawn_at: Mapped[datetime | None] = mapped_column(Instant)
    purged_at: Mapped[datetime | None] = mapped_column(Instant)


class DatasetReport(Base):
    """How a dataset's source was read; apart from the dataset, which is loaded far more often."""

    __tablename__ = "dataset_reports"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    #: Every column of the source: name, part, stored type, how it was recognised.
    columns: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    class_names: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    #: What was normalised, left out, converted or drawn.
    notes: Mapped[dict[str, Any]] = mapped_column(JSON)


class DatasetInspection(Base):
    """A dry run of an ingest: what a source would be read as; removed after an hour."""

    __tablename__ = "dataset_inspections"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    status: Mapped[InspectionStatus] = mapped_column(_state(InspectionStatus), index=True)
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    found: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


class Record(Base):
    """One row of a dataset."""

    __tablename__ = "records"
    __table_args__ = (
        UniqueConstraint("dataset_id", "record_id"),
        Index("ix_records_dataset_id_subject_digest", "dataset_id", "subject_digest"),
        # The excluded rows alone, in the order in which they were excluded.
        Index(
            "ix_records_excluded",
            "dataset_id",
            "excluded_revision",
            "row",
            sqlite_where=text("excluded_revision IS NOT NULL"),
            postgresql_where=text("excluded_revision IS NOT NULL"),
        ),
        # Of these, the rows that are still to be overwritten: few, and none when nothing is due.
        Index(
            "ix_records_standing",
            "dataset_id",
            "row",
            sqlite_where=text("excluded_revision IS NOT NULL AND erased_at IS NULL"),
            postgresql_where=text("excluded_revision IS NOT NULL AND erased_at IS NULL"),
        ),
    )

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)
    record_id: Mapped[str] = mapped_column(String(255))
    subject_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    label: Mapped[int]
    #: 0 train, 1 validation, 2 audit, as in the array store.
    split: Mapped[int]
    #: The dataset's revision at which a batch (or an erasure without a model) excluded it; never
    #: reset. Training takes rows without one.
    excluded_revision: Mapped[int | None]
    #: When the raw row was overwritten in the store.
    erased_at: Mapped[datetime | None] = mapped_column(Instant)


class DataKey(Base):
    """The key of a shard: some thousand rows of a dataset, encrypted in a bucket.

    Stores in a directory have none. A row is erased by rewriting its shard under another key.
    """

    __tablename__ = "data_keys"

    #: Key of the array; while it is being written, a name of its own.
    array: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    #: The shard's place in the array.
    number: Mapped[int] = mapped_column(primary_key=True)
    #: sha256 of the encrypted shard, by which it is found.
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    rows: Mapped[int]
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(Instant)


class RecordList(Base):
    """Records of a dataset on which somebody trained elsewhere; immutable."""

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


class Model(Base):
    """An architecture on a dataset with a training recipe and an unlearning policy."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    architecture: Mapped[dict[str, Any]] = mapped_column(JSON)
    transform: Mapped[dict[str, Any]] = mapped_column(JSON)
    recipe: Mapped[dict[str, Any]] = mapped_column(JSON)
    policy: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: {parameter name: [shape, dtype]}, worked out by the first worker that sees the model.
    parameters: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: Names of ``parameters`` that are one tensor, in groups; NULL until a worker has looked.
    tied: Mapped[list[list[str]] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    #: The alias ``production``.
    production_id: Mapped[int | None] = mapped_column(
        ForeignKey("versions.id", use_alter=True, name="fk_models_production_id_versions")
    )
    #: Set by ``batches:run-now``: a batch closes without waiting.
    run_now_at: Mapped[datetime | None] = mapped_column(Instant)
    #: What ``batches:run-now`` asked for instead of the policy's method.
    run_now_method: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(Instant)
    #: From then on nothing of it is served, trained or imported.
    withdrawn_at: Mapped[datetime | None] = mapped_column(Instant)
    purged_at: Mapped[datetime | None] = mapped_column(Instant)

    dataset: Mapped[Dataset] = relationship(lazy="raise")
    production: Mapped[Version | None] = relationship(
        foreign_keys=[production_id], lazy="raise", post_update=True
    )


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
    status: Mapped[RunStatus] = mapped_column(_state(RunStatus), index=True)
    #: initial, consolidate or request.
    reason: Mapped[str] = mapped_column(String(24))
    seed: Mapped[int] = mapped_column(BigInteger)
    #: The dataset's revision when its rows were drawn; an attempt that goes on from a kept state
    #: keeps it, any other sets it anew.
    data_revision: Mapped[int | None]
    progress: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: The state after its last finished epoch, in the store under ``trainings``; it tells of rows,
    #: is never served and is destroyed when the run ends.
    state_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime | None] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)


class Version(Base):
    """One immutable set of weights."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        Index("ix_versions_line_id_number", "line_id", "number"),
        Index("ix_versions_status_retired_at", "status", "retired_at"),
        # Those on which nothing is decided yet: looked for at each poll, few beside all the others.
        Index(
            "ix_versions_candidates",
            "model_id",
            sqlite_where=text(_CANDIDATE),
            postgresql_where=text(_CANDIDATE),
        ),
        # Those that wait for their purge without having been retired.
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
    status: Mapped[VersionStatus] = mapped_column(_state(VersionStatus))
    #: trained, imported, unlearned or retrained.
    origin: Mapped[str] = mapped_column(String(16))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    #: The trained, retrained or imported version that the chain starts from; itself for an anchor.
    anchor_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"), index=True)
    #: The first version of the line that it lies on (``lineage``).
    line_id: Mapped[int | None]
    #: The anchor's training rows are those not excluded at this revision of the dataset ...
    data_revision: Mapped[int]
    #: ... of the records of this list; NULL: of the train split.
    #: No key of the database: for one SQLite would make a table anew that others refer to.
    record_list_id: Mapped[str | None] = mapped_column(String(40))
    #: No record excluded at this revision of the dataset, or before, is in it.
    clean_revision: Mapped[int] = mapped_column(default=0, server_default="0")
    #: How many batches lie between the anchor and it.
    batches_since_anchor: Mapped[int] = mapped_column(default=0, server_default="0")
    #: {label: rows} that these batches forgot, and the labels of those forgotten as a class.
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
    #: A caution that travels with the version, such as ``no_power``.
    mark: Mapped[str | None] = mapped_column(String(24))
    created_at: Mapped[datetime] = mapped_column(Instant)
    published_at: Mapped[datetime | None] = mapped_column(Instant)
    retired_at: Mapped[datetime | None] = mapped_column(Instant)
    withdrawn_at: Mapped[datetime | None] = mapped_column(Instant)
    #: When a withdrawn version is to be destroyed.
    purge_at: Mapped[datetime | None] = mapped_column(Instant)
    purged_at: Mapped[datetime | None] = mapped_column(Instant)


class Import(Base):
    """What became of an imported version: a worker measures it before it may go live."""

    __tablename__ = "imports"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    #: Whether it is to go live; NULL: only if nothing is live yet when it was measured.
    promote: Mapped[bool | None]
    #: Share of the rows that were scored.
    progress: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(Text)
    #: When it was decided on; NULL: it waits to be measured.
    finished_at: Mapped[datetime | None] = mapped_column(Instant, index=True)


class Artifact(Base):
    """Internal state in the store that belongs to a version and may carry erased rows.

    Kinds: ``caches`` (an anchor's prepared quantities), ``states`` (running sums since the
    anchor), ``logs`` (update log of the training), ``scores`` (per-record losses kept for
    pooling), ``references`` (models trained to calibrate attacks). Never served.
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
    """One move of the alias ``production``; together they are its history."""

    __tablename__ = "alias_moves"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    #: None: the production version was withdrawn, and nothing took its place.
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    reason: Mapped[str] = mapped_column(String(40))
    moved_by: Mapped[str] = mapped_column(String(80))
    moved_at: Mapped[datetime] = mapped_column(Instant)


class DeletionRequest(Base):
    """What a client asks to forget."""

    __tablename__ = "deletion_requests"
    __table_args__ = (
        Index("ix_deletion_requests_status_due_at", "status", "due_at"),
        Index("ix_deletion_requests_dataset_id_id", "dataset_id", "id"),
        Index(
            "ix_deletion_requests_classes",
            "dataset_id",
            "label",
            sqlite_where=text("kind = 'class'"),
            postgresql_where=text("kind = 'class'"),
        ),
        # The requests that others may share the list of.
        Index(
            "ix_deletion_requests_rows_digest",
            "rows_digest",
            sqlite_where=text("rows_digest IS NOT NULL"),
            postgresql_where=text("rows_digest IS NOT NULL"),
        ),
    )

    #: Sorts by time of arrival.
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    #: None: everything about a subject in every dataset; see ``RequestDataset``.
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("datasets.id"))
    #: records, subject or class.
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[RequestStatus] = mapped_column(_state(RequestStatus))
    subject_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    label: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(Text)
    client_reference: Mapped[str | None] = mapped_column(String(255))
    principal: Mapped[str] = mapped_column(String(40))
    #: The request under whose id its records are listed: itself, or an earlier one that matched
    #: the very same; None: it lists none, because it matched none or is for a class.
    listed_by: Mapped[str | None] = mapped_column(String(40), index=True)
    #: What its own list is looked up by (``listing``); None: nobody shares it.
    rows_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    matched: Mapped[int]
    already_forgotten: Mapped[int]
    not_found: Mapped[int]
    #: Why it is in its state, where the state alone does not say.
    status_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant)
    due_at: Mapped[datetime] = mapped_column(Instant)
    expected_by: Mapped[datetime] = mapped_column(Instant)
    completed_at: Mapped[datetime | None] = mapped_column(Instant)


class RequestDataset(Base):
    """What a request over every dataset met in one of them; datasets without a hit have no row."""

    __tablename__ = "request_datasets"

    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True, index=True)
    matched: Mapped[int]
    already_forgotten: Mapped[int]


class Suppression(Base):
    """Keeps a subject, or a row that was forgotten, out of later ingests; see ``suppressions``."""

    __tablename__ = "suppressions"
    __table_args__ = (Index("ix_suppressions_dataset_id_row", "dataset_id", "row"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    #: subject, folded or row.
    kind: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), index=True)
    #: Of a subject: the request that entered it.
    request_id: Mapped[str | None] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    #: Of a row: which one it was.
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("datasets.id"))
    row: Mapped[int | None]
    #: Of a row: digests of its subject and record id, once its dataset is removed and its record
    #: tells them no more; by them it can be readmitted.
    subject_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    record_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    created_at: Mapped[datetime] = mapped_column(Instant)
    lifted_at: Mapped[datetime | None] = mapped_column(Instant)


class RequestRecord(Base):
    """A record that requests matched and that was not forgotten before.

    Those that matched the very same share one list, under the id of the first of them
    (``DeletionRequest.listed_by``); it never changes and outlives that one's end. A request for a
    class has none: it names the records of its label (``naming``).
    """

    __tablename__ = "request_records"
    __table_args__ = (
        ForeignKeyConstraint(["dataset_id", "row"], ["records.dataset_id", "records.row"]),
        Index("ix_request_records_dataset_id_row", "dataset_id", "row"),
    )

    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)


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
        # The running ones and the held ones: what a claim and each poll look for.
        Index(
            "ix_batches_under_way",
            "model_id",
            sqlite_where=text(_UNDER_WAY),
            postgresql_where=text(_UNDER_WAY),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)
    status: Mapped[BatchStatus] = mapped_column(_state(BatchStatus))
    #: records or class: the two kinds of forgetting are never mixed in one batch.
    kind: Mapped[str] = mapped_column(String(16))
    #: How many rows it forgets.
    records: Mapped[int] = mapped_column(default=0, server_default="0")
    base_version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"), index=True)
    #: The method asked for by run-now; None: the policy's.
    method: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    seed: Mapped[int] = mapped_column(BigInteger)
    #: Fence of the model's lease under which it was last claimed; 0: left to the trainings lane.
    fence: Mapped[int] = mapped_column(BigInteger)
    #: Its next method trains, so only the trainings lane takes it.
    trains: Mapped[bool] = mapped_column(default=False)
    #: Methods tried before it was left to that lane: ``[{"choice": …, "refusal": …,
    #: "lasting": whether it would say so again}]``.
    tried: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    attempts: Mapped[int] = mapped_column(default=1)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant)
    #: Of a held batch: when its version goes live by itself.
    held_until: Mapped[datetime | None] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)


class BatchState(Base):
    """The state that a batch's retrain kept: a worker that takes the batch over goes on from it."""

    __tablename__ = "batch_states"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    #: The choice of method that left it, and what its training was begun with.
    method: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    data_revision: Mapped[int]
    #: Nothing goes on from it any more: it is to be destroyed.
    given_up: Mapped[bool] = mapped_column(default=False)


class BatchRecord(Base):
    """A row of the base version's training data that a batch forgets."""

    __tablename__ = "batch_records"
    __table_args__ = (Index("ix_batch_records_row_batch_id", "row", "batch_id"),)

    #: No key of the database, here and in ``erasures``: the batch is inserted by the same
    #: transaction, none is ever deleted, and it would be looked up again for each row.
    batch_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)


class Erasure(Base):
    """One request's share of the work on one model."""

    __tablename__ = "erasures"
    __table_args__ = (
        UniqueConstraint("request_id", "model_id"),
        # What is still to be done; history grows, this does not.
        Index(
            "ix_erasures_open",
            "model_id",
            "id",
            sqlite_where=text(_OPEN_ERASURES),
            postgresql_where=text(_OPEN_ERASURES),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    status: Mapped[ErasureStatus] = mapped_column(_state(ErasureStatus))
    batch_id: Mapped[str | None] = mapped_column(String(40), index=True)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    #: Failed batches in a row; a batch that keeps failing is split into cohorts.
    attempts: Mapped[int] = mapped_column(default=0)
    #: Erasures of one cohort are batched together and with nobody else; None: with everybody.
    cohort: Mapped[str | None] = mapped_column(String(40))
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant)
    completed_at: Mapped[datetime | None] = mapped_column(Instant)

    request: Mapped[DeletionRequest] = relationship(lazy="raise")


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


class Lease(Base):
    """Who may work on what, until when; the fence grows with every new holder."""

    __tablename__ = "leases"

    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(80))
    until: Mapped[datetime] = mapped_column(Instant)
    fence: Mapped[int] = mapped_column(BigInteger)


class Worker(Base):
    """A worker process that lives, or did until ``seen_at``; it writes this every few seconds."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    started_at: Mapped[datetime] = mapped_column(Instant)
    seen_at: Mapped[datetime] = mapped_column(Instant)
    #: {lane: since when it has been busy, RFC 3339, or null}.
    busy_since: Mapped[dict[str, Any]] = mapped_column(JSON)
    code_version: Mapped[str] = mapped_column(String(NAME_LENGTH))


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


class AuditEvent(Base):
    """One append-only line, chained to the one before by its hash."""

    __tablename__ = "audit_events"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(Instant)
    actor: Mapped[str] = mapped_column(String(80))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(120), index=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    previous_hash: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    hash: Mapped[str] = mapped_column(String(DIGEST_LENGTH))


class AuditHead(Base):
    """The chain's last line; its one row is the lock under which lines are appended."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
