"""Datasets and their records."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from service.ledger.database.db import Base, Instant
from service.ledger.database.identifiers import Case, Origin
from service.ledger.database.states import AppendStatus, DatasetStatus, InspectionStatus
from service.ledger.database.tables.columns import DIGEST_LENGTH, NAME_LENGTH, state

_WAITING = "status = 'waiting'"


class Dataset(Base):
    """Ingested training data."""

    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    status: Mapped[DatasetStatus] = mapped_column(state(DatasetStatus))
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Key of the ingest's array in the store, set when the dataset becomes ready (``segments``).
    array_key: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    #: Key of the array of the texts of its rows; NULL: they are not kept.
    text_key: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    rows: Mapped[int | None]
    shape: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    dtype: Mapped[str | None] = mapped_column(String(16))
    #: The kind of input of its rows once it is ready: ``name``, ``options`` as the source declares
    #: them, the architecture ``parameters`` that they decide, ``scale`` (NULL: no transform).
    input: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    classes: Mapped[int | None]
    #: Rows of each split, by name: only appends change them; counting would read every record.
    split_rows: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    #: Where the ids come from, set when the dataset becomes ready: a request by ids that the
    #: source does not have must be refused.
    record_id_origin: Mapped[Origin | None] = mapped_column(state(Origin))
    subject_id_origin: Mapped[Origin | None] = mapped_column(state(Origin))
    #: What the source declares about ids that differ by case; None: it has none.
    id_case: Mapped[Case | None] = mapped_column(state(Case))
    #: Number of completed appends; 0: all rows are in one array.
    appends: Mapped[int] = mapped_column(default=0, server_default="0")
    #: Grows by one each time records are excluded from training, or appended.
    revision: Mapped[int] = mapped_column(default=0)
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant)
    ready_at: Mapped[datetime | None] = mapped_column(Instant)
    withdrawn_at: Mapped[datetime | None] = mapped_column(Instant)
    purged_at: Mapped[datetime | None] = mapped_column(Instant)


class DatasetReport(Base):
    """How a dataset's source was read; a table of its own because it is rarely loaded."""

    __tablename__ = "dataset_reports"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    #: Every column of the source: name, part, stored type, how it was recognised.
    columns: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    class_names: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    #: What was normalised, left out, converted or drawn.
    notes: Mapped[dict[str, Any]] = mapped_column(JSON)


class DatasetAppend(Base):
    """Rows of a source that are added to a dataset that is ready."""

    __tablename__ = "dataset_appends"
    __table_args__ = (
        Index(
            "ix_dataset_appends_waiting",
            "dataset_id",
            sqlite_where=text(_WAITING),
            postgresql_where=text(_WAITING),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    status: Mapped[AppendStatus] = mapped_column(state(AppendStatus))
    #: Path, format, seed and fractions; the rest is that of the dataset's own ingest.
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: What is done with rows whose record ids the dataset has: refuse or skip.
    existing: Mapped[str] = mapped_column(String(8))
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None] = mapped_column(Text)
    #: Of a completed one: the key of its array, the number of its first row, how many it has, ...
    array_key: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    text_key: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    first_row: Mapped[int | None]
    rows: Mapped[int | None]
    split_rows: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    #: ... and the dataset's revision from which on it has them.
    revision: Mapped[int | None]
    #: Rows that were left out, by reason, and how the source was read.
    notes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_by: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(Instant)
    finished_at: Mapped[datetime | None] = mapped_column(Instant)


class AppendedRecord(Base):
    """A record of an append under way; it joins ``records`` when the append is completed."""

    __tablename__ = "appended_records"

    append_id: Mapped[str] = mapped_column(ForeignKey("dataset_appends.id"), primary_key=True)
    #: Counted from 0 within the append.
    row: Mapped[int] = mapped_column(primary_key=True)
    record_id: Mapped[str] = mapped_column(String(255))
    subject_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    label: Mapped[int]
    split: Mapped[int]


class DatasetInspection(Base):
    """A dry run of an ingest: what a source would be read as; removed after an hour."""

    __tablename__ = "dataset_inspections"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    status: Mapped[InspectionStatus] = mapped_column(state(InspectionStatus), index=True)
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    found: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


class Record(Base):
    """One row of a dataset."""

    __tablename__ = "records"
    __table_args__ = (
        UniqueConstraint("dataset_id", "record_id"),
        # No index covers a column that changes, and pages have free space: on PostgreSQL the new
        # version of an excluded or overwritten row stays on its page, without index writes.
        Index("ix_records_dataset_id_subject_digest", "dataset_id", "subject_digest"),
        {"postgresql_with": {"fillfactor": 90}},
    )

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)
    record_id: Mapped[str] = mapped_column(String(255))
    subject_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    label: Mapped[int]
    #: 0 train, 1 validation, 2 audit, as in the array store.
    split: Mapped[int]
    #: The dataset's revision at which a batch (or an erasure without a model) excluded it; never
    #: reset. Training uses rows without one.
    excluded_revision: Mapped[int | None]
    #: When the raw row was overwritten in the store.
    erased_at: Mapped[datetime | None] = mapped_column(Instant)


class Exclusion(Base):
    """An excluded record, as ``records`` says; maintained by triggers (``exclusions``)."""

    __tablename__ = "exclusions"
    __table_args__ = (
        # Few rows, and none when nothing is due.
        Index(
            "ix_exclusions_standing",
            "dataset_id",
            "row",
            sqlite_where=text("standing = 1"),
            postgresql_where=text("standing"),
        ),
    )

    #: No foreign key: it would be checked for each row, and no record is deleted once it can be
    #: excluded.
    dataset_id: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)
    #: The raw row is still to be overwritten in the store.
    standing: Mapped[bool]


class DataKey(Base):
    """The key of a shard, some thousand rows of a dataset encrypted in a bucket.

    Stores in a directory have none. A row is erased by rewriting its shard under another key.
    """

    __tablename__ = "data_keys"

    #: Key of the array; while it is being written, a temporary name.
    array: Mapped[str] = mapped_column(String(DIGEST_LENGTH), primary_key=True)
    #: The shard's place in the array.
    number: Mapped[int] = mapped_column(primary_key=True)
    #: sha256 of the encrypted shard, by which it is found.
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    rows: Mapped[int]
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(Instant)
