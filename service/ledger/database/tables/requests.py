"""Deletion requests, the records that they match, and their erasures."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Computed,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from service.ledger.database.db import Base, Instant
from service.ledger.database.states import ErasureStatus, RequestStatus
from service.ledger.database.tables.columns import DIGEST_LENGTH, state

#: Rows of ``erasures`` and ``deletion_requests`` change their state while they are open, all those
#: of a batch at once. No index covers a column that changes then, also not in its condition, and
#: pages have free space: on PostgreSQL the new versions stay on their pages, without index writes.
#: They are longer than what they replace, those of erasures by the id of a batch.
_ROOM_FOR_REQUESTS: dict[str, Any] = {"postgresql_with": {"fillfactor": 45}}
_ROOM_FOR_ERASURES: dict[str, Any] = {"postgresql_with": {"fillfactor": 40}}
_OPEN: dict[str, Any] = {
    "sqlite_where": text("is_open = 1"),
    "postgresql_where": text("is_open"),
}

OPEN_ERASURE = "status IN ('pending', 'claimed', 'needs_review')"
OPEN_REQUEST = "status IN ('awaiting_approval', 'accepted', 'processing', 'needs_review')"


class IdempotencyKey(Base):
    """The answer given to one principal for one ``Idempotency-Key``."""

    __tablename__ = "idempotency_keys"

    principal: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH))
    answer: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


class DeletionRequest(Base):
    """A client's request to forget something."""

    __tablename__ = "deletion_requests"
    __table_args__ = (
        # Open requests: their number does not grow with history.
        Index("ix_deletion_requests_open", "id", **_OPEN),
        # The same by days left, and those of clients who look for their own names.
        Index("ix_deletion_requests_due", "due_at", "id", **_OPEN),
        Index(
            "ix_deletion_requests_client_reference",
            "client_reference",
            sqlite_where=text("client_reference IS NOT NULL"),
            postgresql_where=text("client_reference IS NOT NULL"),
            postgresql_ops={"client_reference": "text_pattern_ops"},
        ),
        Index("ix_deletion_requests_dataset_id_id", "dataset_id", "id"),
        Index(
            "ix_deletion_requests_classes",
            "dataset_id",
            "label",
            sqlite_where=text("kind = 'class'"),
            postgresql_where=text("kind = 'class'"),
        ),
        # Requests whose list others may share.
        Index(
            "ix_deletion_requests_rows_digest",
            "rows_digest",
            sqlite_where=text("rows_digest IS NOT NULL"),
            postgresql_where=text("rows_digest IS NOT NULL"),
        ),
        _ROOM_FOR_REQUESTS,
    )

    #: Sorts by time of arrival.
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    #: None: everything about a subject in every dataset; see ``RequestDataset``.
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("datasets.id"))
    #: records, subject or class.
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[RequestStatus] = mapped_column(state(RequestStatus))
    #: It has not ended; computed by the database.
    is_open: Mapped[bool] = mapped_column(Computed(OPEN_REQUEST, persisted=True), deferred=True)
    subject_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    label: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(Text)
    client_reference: Mapped[str | None] = mapped_column(String(255))
    principal: Mapped[str] = mapped_column(String(40))
    #: The request under whose id its records are listed: itself, or an earlier one that matched
    #: exactly the same; None: it lists none, because it matched none or is for a class.
    listed_by: Mapped[str | None] = mapped_column(String(40), index=True)
    #: Digest by which its own list is found (``listing``); None: it is not shared.
    rows_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    matched: Mapped[int]
    already_forgotten: Mapped[int]
    not_found: Mapped[int]
    #: A ``lifecycle.DenialReason``, once it is denied.
    denial_code: Mapped[str | None] = mapped_column(String(32))
    #: The legal hold that it is under; None: none.
    legal_hold_id: Mapped[str | None] = mapped_column(String(40))
    #: Why it is in its state, where the state alone does not say.
    status_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant)
    #: When the person asked, from which its periods count; None: at ``created_at``.
    asked_at: Mapped[datetime | None] = mapped_column(Instant)
    due_at: Mapped[datetime] = mapped_column(Instant)
    #: A ``regulations.Regulation``; None: as GDPR has it.
    regulation: Mapped[str | None] = mapped_column(String(16))
    #: How often its period was extended, and why last; None: never.
    extensions: Mapped[int | None]
    extension_reason: Mapped[str | None] = mapped_column(Text)
    #: How many of ``deadlines.WARNINGS`` were given of its due date; None: none.
    warnings: Mapped[int | None]
    expected_by: Mapped[datetime] = mapped_column(Instant)
    completed_at: Mapped[datetime | None] = mapped_column(Instant)
    #: W3C trace context of the call that asked, for the batch that answers; None: not traced.
    traceparent: Mapped[str | None] = mapped_column(String(55))


class LegalHold(Base):
    """Keeps what a request names from being destroyed until it is released."""

    __tablename__ = "legal_holds"
    __table_args__ = (
        # Those in force: looked at before rows are erased.
        Index(
            "uq_legal_holds_in_force",
            "request_id",
            unique=True,
            sqlite_where=text("released_at IS NULL"),
            postgresql_where=text("released_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), index=True)
    #: A ``legal_holds.HoldReason``.
    reason_code: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(Text)
    placed_by: Mapped[str] = mapped_column(String(80))
    placed_at: Mapped[datetime] = mapped_column(Instant)
    released_by: Mapped[str | None] = mapped_column(String(80))
    released_at: Mapped[datetime | None] = mapped_column(Instant)
    release_reason: Mapped[str | None] = mapped_column(Text)


class RequestDataset(Base):
    """What a request over every dataset met in one of them; no row for datasets without a match."""

    __tablename__ = "request_datasets"

    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True, index=True)
    matched: Mapped[int]
    already_forgotten: Mapped[int]


class Suppression(Base):
    """Keeps a subject, or a forgotten row, out of later ingests; see ``suppressions``."""

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
    #: Of a row: digests of its subject and record id, set when its dataset is removed and its
    #: record no longer has them; needed to readmit it.
    subject_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    record_digest: Mapped[str | None] = mapped_column(String(DIGEST_LENGTH))
    created_at: Mapped[datetime] = mapped_column(Instant)
    lifted_at: Mapped[datetime | None] = mapped_column(Instant)


class RequestRecord(Base):
    """A record that requests matched and that was not forgotten before.

    Requests that matched exactly the same records share one list, under the id of the first of
    them (``DeletionRequest.listed_by``); it never changes and outlives that request. A request for
    a class has none: its label names the records (``naming``).
    """

    __tablename__ = "request_records"
    __table_args__ = (
        ForeignKeyConstraint(["dataset_id", "row"], ["records.dataset_id", "records.row"]),
        Index("ix_request_records_dataset_id_row", "dataset_id", "row"),
    )

    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(primary_key=True)


class Erasure(Base):
    """One request's share of the work on one model."""

    __tablename__ = "erasures"
    __table_args__ = (
        UniqueConstraint("request_id", "model_id"),
        # Open erasures: their number does not grow with history.
        Index("ix_erasures_open", "model_id", "id", **_OPEN),
        _ROOM_FOR_ERASURES,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    #: No foreign keys in this table: what they name is never deleted, and each key would be looked
    #: up for every row that a claim or the end of a batch changes.
    request_id: Mapped[str] = mapped_column(String(40))
    model_id: Mapped[int]
    status: Mapped[ErasureStatus] = mapped_column(state(ErasureStatus))
    #: It is still to be done; computed by the database.
    is_open: Mapped[bool] = mapped_column(Computed(OPEN_ERASURE, persisted=True), deferred=True)
    #: Its last batch. Not indexed: a batch's erasures are found by ``Batch.members``.
    batch_id: Mapped[str | None] = mapped_column(String(40))
    version_id: Mapped[int | None]
    #: Failed batches in a row; a batch that keeps failing is split into cohorts.
    attempts: Mapped[int] = mapped_column(default=0)
    #: Erasures of one cohort are batched together and with no others; None: with all others.
    cohort: Mapped[str | None] = mapped_column(String(40))
    not_before: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant)
    completed_at: Mapped[datetime | None] = mapped_column(Instant)

    request: Mapped[DeletionRequest] = relationship(
        primaryjoin="foreign(Erasure.request_id) == DeletionRequest.id", lazy="raise"
    )
