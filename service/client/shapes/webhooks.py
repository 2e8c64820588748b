"""Shapes of webhooks."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from ..answers import Answer, Word


class Delivery(Answer):
    """One attempt to deliver an event."""

    #: `webhook-id` of the attempt
    event_id: str
    type: str
    #: the event's line of the audit chain
    line: int
    at: datetime
    seconds: float
    outcome: str
    #: the receiver's HTTP status; null: no answer
    answered: int | None
    #: why it failed
    error: str | None


class EventType(StrEnum):
    """What happened, as a receiver sees it."""

    UNLEARN_DELETION_REQUEST_ACCEPTED = "unlearn.deletion_request.accepted"
    UNLEARN_DELETION_REQUEST_AWAITING_APPROVAL = "unlearn.deletion_request.awaiting_approval"
    UNLEARN_DELETION_REQUEST_APPROVED = "unlearn.deletion_request.approved"
    UNLEARN_DELETION_REQUEST_DENIED = "unlearn.deletion_request.denied"
    UNLEARN_DELETION_REQUEST_NO_MATCH = "unlearn.deletion_request.no_match"
    UNLEARN_DELETION_REQUEST_CANCELLED = "unlearn.deletion_request.cancelled"
    UNLEARN_DELETION_REQUEST_COMPLETED = "unlearn.deletion_request.completed"
    UNLEARN_DELETION_REQUEST_NEEDS_REVIEW = "unlearn.deletion_request.needs_review"
    UNLEARN_DELETION_REQUEST_RETRIED = "unlearn.deletion_request.retried"
    UNLEARN_DELETION_REQUEST_LEGAL_HOLD_PLACED = "unlearn.deletion_request.legal_hold_placed"
    UNLEARN_DELETION_REQUEST_LEGAL_HOLD_RELEASED = "unlearn.deletion_request.legal_hold_released"
    UNLEARN_DELETION_REQUEST_EXTENDED = "unlearn.deletion_request.extended"
    UNLEARN_DELETION_REQUEST_DUE_SOON = "unlearn.deletion_request.due_soon"
    UNLEARN_DELETION_REQUEST_OVERDUE = "unlearn.deletion_request.overdue"
    UNLEARN_DELETION_REQUEST_REOPENED = "unlearn.deletion_request.reopened"
    UNLEARN_VERSION_PROMOTED = "unlearn.version.promoted"
    UNLEARN_VERSION_WITHDRAWN = "unlearn.version.withdrawn"
    UNLEARN_VERSION_PURGED = "unlearn.version.purged"
    UNLEARN_TRAINING_RUN_COMPLETED = "unlearn.training_run.completed"
    UNLEARN_TRAINING_RUN_FAILED = "unlearn.training_run.failed"
    UNLEARN_TRAINING_RUN_CANCELLED = "unlearn.training_run.cancelled"
    UNLEARN_WEBHOOK_TESTED = "unlearn.webhook.tested"


class Scheme(StrEnum):
    """How the deliveries of a webhook are signed."""

    HMAC_SHA256 = "hmac-sha256"
    ED25519 = "ed25519"


class WebhookStatus(StrEnum):
    """A receiver of events."""

    ACTIVE = "active"
    DISABLED = "disabled"


class WebhookView(Answer):
    """A webhook, without its secret."""

    id: str
    url: str
    description: str | None
    #: types of the events that it is told; null: all, also those of later releases
    types: list[str] | None
    scheme: Word[Scheme]
    #: checks signatures of ed25519; null of the other
    public_key: str | None
    status: Word[WebhookStatus]
    #: why it is disabled
    status_reason: str | None
    #: line of the audit chain up to which it was told everything
    after: int
    #: lines of the audit chain after that one
    behind: int
    #: failed attempts since the last delivery
    failures: int
    failing_since: datetime | None
    #: null: at once, when there is an event
    next_attempt_at: datetime | None
    #: when an event was last delivered
    delivered_at: datetime | None
    #: until then the replaced secret signs as well
    previous_secret_until: datetime | None
    created_at: datetime


class WebhookWithSecret(Answer):
    """A webhook with its secret, which is shown this once."""

    id: str
    url: str
    description: str | None
    #: types of the events that it is told; null: all, also those of later releases
    types: list[str] | None
    scheme: Word[Scheme]
    #: checks signatures of ed25519; null of the other
    public_key: str | None
    status: Word[WebhookStatus]
    #: why it is disabled
    status_reason: str | None
    #: line of the audit chain up to which it was told everything
    after: int
    #: lines of the audit chain after that one
    behind: int
    #: failed attempts since the last delivery
    failures: int
    failing_since: datetime | None
    #: null: at once, when there is an event
    next_attempt_at: datetime | None
    #: when an event was last delivered
    delivered_at: datetime | None
    #: until then the replaced secret signs as well
    previous_secret_until: datetime | None
    created_at: datetime
    #: keep it now; null if `public_key` checks the signatures
    secret: str | None = Field(repr=False)
