"""Shapes of requests."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, Field

from ..answers import Answer, Given, Word
from .common import AuditEvent


class DenialReason(StrEnum):
    """Why a request is denied, where a regulation knows the reason."""

    IDENTITY_NOT_VERIFIED = "identity_not_verified"
    MANIFESTLY_UNFOUNDED = "manifestly_unfounded"
    EXCESSIVE = "excessive"
    FREEDOM_OF_EXPRESSION = "freedom_of_expression"
    LEGAL_OBLIGATION = "legal_obligation"
    PUBLIC_HEALTH = "public_health"
    ARCHIVING_OR_RESEARCH = "archiving_or_research"
    LEGAL_CLAIMS = "legal_claims"
    DUPLICATE = "duplicate"
    OTHER = "other"


class Regulation(StrEnum):
    """The rule by which a request's due date is set."""

    GDPR = "gdpr"
    CCPA = "ccpa"
    CUSTOM = "custom"


class RequestStatus(StrEnum):
    """A deletion request as its client sees it."""

    AWAITING_APPROVAL = "awaiting_approval"
    ACCEPTED = "accepted"
    PROCESSING = "processing"
    COMPLETED = "completed"
    NO_MATCH = "no_match"
    CANCELLED = "cancelled"
    DENIED = "denied"
    NEEDS_REVIEW = "needs_review"


class DeletionRequest(Answer):
    """A recorded deletion request, without what identified the person."""

    id: str
    #: null: every dataset that has subject ids
    dataset: str | None
    kind: str
    status: Word[RequestStatus]
    #: why it is in its state; also how many of the record ids name nothing
    status_reason: str | None
    label: int | None
    reason: str | None = Field(repr=False)
    client_reference: str | None = Field(repr=False)
    #: records to forget
    matched: int
    #: records forgotten before
    already_forgotten: int
    #: record ids that name nothing in the dataset
    not_found: int
    #: false: not everything that was requested was found, so check the ids
    complete_match: bool
    created_at: datetime
    #: the end of its regulation's period, extensions included
    due_at: datetime
    regulation: Word[Regulation]
    #: how often the period was extended
    extensions: int
    extension_reason: str | None = Field(repr=False)
    denial_code: Word[DenialReason] | None
    #: nothing of it is destroyed until the hold is released
    legal_hold: bool
    #: an estimate, not a promise
    expected_by: datetime
    completed_at: datetime | None


class FieldProblem(Answer):
    """What is wrong with one field of the request."""

    field: str
    reason: str = Field(repr=False)


class Problem(Answer):
    """An error as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    #: identifies the kind of problem
    type: str | None = None
    title: str
    status: int
    #: stable word for programs
    code: str
    #: what happened and what to do next
    detail: str
    #: which fields are invalid
    fields: list[FieldProblem] | None = None
    #: names the log line of an internal error
    reference: str | None = None
    #: names the request in log lines and traces
    request_id: str | None = None


class BatchResult(Answer):
    """The result of one item of a batch."""

    #: the HTTP status that it would have had alone
    status: int
    request: DeletionRequest | None = None
    problem: Problem | None = None


class BatchResults(Answer):
    """The result of every item, in order."""

    items: list[BatchResult]
    accepted: int
    refused: int


class Refusal(Answer):
    """A request that was left as it is, and why."""

    request: str
    detail: str


class BulkDecision(Answer):
    """A decision and how far it has come; requests that no longer fitted are not counted."""

    id: str
    action: str
    filter: Mapping[str, Any]
    #: requests that fitted when it was confirmed
    matching: int
    done: int
    refused: int
    #: the first hundred
    refusals: list[Refusal]
    created_at: datetime
    #: null: call `:continue`
    ended_at: datetime | None


class BulkFilter(Given):
    """Conditions on the requests; `{}`: all that the action is possible for."""

    dataset: str | None = None
    model: str | None = None
    due_before: datetime | None = None
    received_before: datetime | None = None
    #: how the client's own name of the request begins
    reference: str | None = None


class BulkPreview(Answer):
    """How many requests fit now; nothing is recorded."""

    action: str
    matching: int
    #: last line of the audit chain before they were counted
    counted_up_to: int


class ErasureStatus(StrEnum):
    """One request's share of the work on one model."""

    PENDING = "pending"
    CLAIMED = "claimed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    NEEDS_REVIEW = "needs_review"


class Erasure(Answer):
    """The state of a request on one model."""

    model: str
    status: Word[ErasureStatus]
    batch: str | None
    #: the version that no longer contains the records; null of a completed one: the model has no
    #: live version any more
    version: int | None
    attempts: int
    error: str | None
    #: it is not begun before: the policy's undo window, or the pause after a failed attempt
    not_before: datetime | None
    completed_at: datetime | None


class InDataset(Answer):
    """What a request met in one dataset."""

    dataset: str
    #: records to forget
    matched: int
    #: records forgotten before
    already_forgotten: int


class HoldReason(StrEnum):
    """Why data must be kept although their deletion was requested."""

    LEGAL_CLAIMS = "legal_claims"
    LEGAL_OBLIGATION = "legal_obligation"
    AUTHORITY_ORDER = "authority_order"


class LegalHold(Answer):
    """A legal hold, in force or released."""

    id: str
    reason_code: Word[HoldReason]
    reason: str = Field(repr=False)
    placed_by: str
    placed_at: datetime
    released_by: str | None
    #: null: it is in force
    released_at: datetime | None
    release_reason: str | None = Field(repr=False)


class DeletionRequestDetail(Answer):
    """A deletion request with what it met in each dataset and its state on each model."""

    id: str
    #: null: every dataset that has subject ids
    dataset: str | None
    kind: str
    status: Word[RequestStatus]
    #: why it is in its state; also how many of the record ids name nothing
    status_reason: str | None
    label: int | None
    reason: str | None = Field(repr=False)
    client_reference: str | None = Field(repr=False)
    #: records to forget
    matched: int
    #: records forgotten before
    already_forgotten: int
    #: record ids that name nothing in the dataset
    not_found: int
    #: false: not everything that was requested was found, so check the ids
    complete_match: bool
    created_at: datetime
    #: the end of its regulation's period, extensions included
    due_at: datetime
    regulation: Word[Regulation]
    #: how often the period was extended
    extensions: int
    extension_reason: str | None = Field(repr=False)
    denial_code: Word[DenialReason] | None
    #: nothing of it is destroyed until the hold is released
    legal_hold: bool
    #: an estimate, not a promise
    expected_by: datetime
    completed_at: datetime | None
    datasets: list[InDataset]
    erasures: list[Erasure]
    legal_holds: list[LegalHold]


class Events(Answer):
    """The events of a request so far."""

    items: list[AuditEvent]
    next_cursor: str | None
    erasures: list[Erasure]


class ExtensionReason(StrEnum):
    """Why a request takes longer; GDPR 12(3) knows these two."""

    COMPLEXITY = "complexity"
    NUMBER_OF_REQUESTS = "number_of_requests"


class ListedHold(Answer):
    """A legal hold with the request that it keeps."""

    id: str
    reason_code: Word[HoldReason]
    reason: str = Field(repr=False)
    placed_by: str
    placed_at: datetime
    released_by: str | None
    #: null: it is in force
    released_at: datetime | None
    release_reason: str | None = Field(repr=False)
    request: str
    request_status: Word[RequestStatus]
    #: of the request; a hold does not move it
    due_at: datetime


class NewBatchItem(Given):
    """A deletion request in a batch, with its own idempotency key."""

    #: left out, with `subject_id`: every dataset that has subject ids
    dataset: str | None = None
    #: ids of single records
    record_ids: Sequence[str] | None = Field(None, repr=False)
    #: everything about one subject
    subject_id: str | None = Field(None, repr=False)
    #: every record of one class, by its number
    label: int | None = None
    #: the same by its name, where the dataset's source named its classes (`class_names` of `GET
    #: /v1/datasets/{dataset}`)
    class_name: str | None = None
    reason: str | None = Field(None, repr=False)
    #: your own name for this request
    client_reference: str | None = Field(None, repr=False)
    #: by which rule it is due: gdpr, one calendar month; ccpa, 45 days; custom, `due_days`. Left
    #: out: as the service is set up (UNLEARN_REGULATION)
    regulation: Regulation | str | None = None
    #: days until it is due; with `regulation` custom
    due_days: int | None = None
    idempotency_key: str | None = None


class OnModel(Answer):
    """How many of the records a model's live version holds."""

    model: str
    #: the live version; null: its first training runs
    version: int | None
    #: of the records, how many the live version was trained on and holds
    trained_on: int


class Splits(Answer):
    """Numbers of records by split."""

    train: int
    validation: int
    audit: int


class PreviewInDataset(Answer):
    """What a request would meet in one dataset."""

    dataset: str
    #: records to forget
    matched: int
    #: records forgotten before
    already_forgotten: int
    splits: Splits
    models: list[OnModel]


class Preview(Answer):
    """What a request would meet now and in which state it would begin; nothing is recorded."""

    #: null: every dataset that has subject ids
    dataset: str | None
    kind: str
    #: the state in which the request would begin; `awaiting_approval`: it would wait
    status: Word[RequestStatus]
    #: records to forget
    matched: int
    #: records forgotten before
    already_forgotten: int
    #: record ids that name nothing in the dataset
    not_found: int
    #: false: not everything that was requested was found
    complete_match: bool
    #: the end of its regulation's period
    due_at: datetime
    #: an estimate, not a promise
    expected_by: datetime
    datasets: list[PreviewInDataset]


class Readmitted(Answer):
    """The suppressions that were lifted."""

    #: suppressions that were in force; 0: there were none
    lifted: int
