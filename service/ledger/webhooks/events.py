"""Events for webhooks: each is derived from one line of the audit chain, as a CloudEvent.

The chain is the ledger's outbox (``audit.machines``): nothing is written when something happens
but its line, and whoever follows the lines by their numbers misses no event. An event has ids of
the service's own, counts and moments; never a record's or a subject's id, a label, a reason or any
other text of a client.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from service.ledger.audit import canonical
from service.ledger.audit.chain import Action

#: CloudEvents 1.0 in structured mode (JSON event format).
MEDIA_TYPE = "application/cloudevents+json; charset=utf-8"

#: ``source`` of every event; with ``id``, which holds the line's hash, it is unique everywhere.
SOURCE = "/v1/audit/events"


class EventType(StrEnum):
    """What happened, as a receiver sees it."""

    REQUEST_ACCEPTED = "unlearn.deletion_request.accepted"
    REQUEST_AWAITING_APPROVAL = "unlearn.deletion_request.awaiting_approval"
    REQUEST_APPROVED = "unlearn.deletion_request.approved"
    REQUEST_DENIED = "unlearn.deletion_request.denied"
    REQUEST_NO_MATCH = "unlearn.deletion_request.no_match"
    REQUEST_CANCELLED = "unlearn.deletion_request.cancelled"
    REQUEST_COMPLETED = "unlearn.deletion_request.completed"
    REQUEST_NEEDS_REVIEW = "unlearn.deletion_request.needs_review"
    REQUEST_RETRIED = "unlearn.deletion_request.retried"
    REQUEST_LEGAL_HOLD_PLACED = "unlearn.deletion_request.legal_hold_placed"
    REQUEST_LEGAL_HOLD_RELEASED = "unlearn.deletion_request.legal_hold_released"
    REQUEST_EXTENDED = "unlearn.deletion_request.extended"
    REQUEST_DUE_SOON = "unlearn.deletion_request.due_soon"
    REQUEST_OVERDUE = "unlearn.deletion_request.overdue"
    REQUEST_REOPENED = "unlearn.deletion_request.reopened"
    VERSION_PROMOTED = "unlearn.version.promoted"
    VERSION_WITHDRAWN = "unlearn.version.withdrawn"
    VERSION_PURGED = "unlearn.version.purged"
    TRAINING_RUN_COMPLETED = "unlearn.training_run.completed"
    TRAINING_RUN_FAILED = "unlearn.training_run.failed"
    TRAINING_RUN_CANCELLED = "unlearn.training_run.cancelled"
    WEBHOOK_TESTED = "unlearn.webhook.tested"


class Line(Protocol):
    """What is needed of a line of the audit chain."""

    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def at(self) -> datetime: ...  # noqa: D102
    @property
    def action(self) -> str: ...  # noqa: D102
    @property
    def subject(self) -> str: ...  # noqa: D102
    @property
    def data(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def hash(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Event:
    """An event, as every webhook receives it."""

    #: Number of the audit line.
    seq: int
    type: EventType
    at: datetime
    #: The same in every delivery of the event; begins with the number, and no dot is in it.
    id: str
    data: Mapping[str, Any]
    #: The only webhook that is told; None: all that want its type.
    webhook: str | None = None

    @property
    def body(self) -> bytes:
        """The CloudEvent as JSON; the same bytes at each attempt."""
        document = {
            "specversion": "1.0",
            "id": self.id,
            "source": SOURCE,
            "type": self.type.value,
            "time": canonical.moment(self.at),
            "datacontenttype": "application/json",
            # The extension "sequence": sorts as the lines do.
            "sequence": f"{self.seq:020d}",
            "data": dict(self.data),
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def of_line(line: Line) -> Event | None:
    """Return the event of an audit line; None if webhooks are not told of it."""
    known = _KNOWN.get(line.action)
    if known is None:
        return None
    kind, described = known
    return Event(
        seq=line.seq,
        type=kind,
        at=line.at,
        id=f"{line.seq}-{line.hash[:16]}",
        data=described(line),
        webhook=(
            line.subject.removeprefix("webhook:") if kind == EventType.WEBHOOK_TESTED else None
        ),
    )


def _of_request(line: Line) -> dict[str, Any]:
    _, _, request_id = line.subject.partition(":")
    return {
        "deletion_request": request_id,
        "href": f"/v1/deletion-requests/{request_id}",
        **_some(line, "due_at", "within_days"),
    }


def _of_version(line: Line) -> dict[str, Any]:
    model, _, number = line.subject.removeprefix("version:").rpartition("/")
    return {
        "model": model,
        "version": int(number),
        "href": f"/v1/models/{model}/versions/{number}",
        **_some(line, "digest"),
    }


def _of_training(line: Line) -> dict[str, Any]:
    _, _, model = line.subject.partition(":")
    run = line.data["training_run"]
    return {
        "model": model,
        "training_run": run,
        "href": f"/v1/models/{model}/training-runs/{run}",
        **_some(line, "version"),
    }


def _of_webhook(line: Line) -> dict[str, Any]:
    return {"webhook": line.subject.removeprefix("webhook:")}


def _some(line: Line, *names: str) -> dict[str, Any]:
    return {name: line.data[name] for name in names if name in line.data}


_Described = Callable[[Line], Mapping[str, Any]]

_REQUESTS = {
    Action.DELETION_REQUEST_ACCEPTED: EventType.REQUEST_ACCEPTED,
    Action.DELETION_REQUEST_AWAITING_APPROVAL: EventType.REQUEST_AWAITING_APPROVAL,
    Action.DELETION_REQUEST_APPROVED: EventType.REQUEST_APPROVED,
    Action.DELETION_REQUEST_DENIED: EventType.REQUEST_DENIED,
    Action.DELETION_REQUEST_NO_MATCH: EventType.REQUEST_NO_MATCH,
    Action.DELETION_REQUEST_CANCELLED: EventType.REQUEST_CANCELLED,
    Action.DELETION_REQUEST_COMPLETED: EventType.REQUEST_COMPLETED,
    Action.DELETION_REQUEST_NEEDS_REVIEW: EventType.REQUEST_NEEDS_REVIEW,
    Action.DELETION_REQUEST_RETRIED: EventType.REQUEST_RETRIED,
    Action.DELETION_REQUEST_LEGAL_HOLD_PLACED: EventType.REQUEST_LEGAL_HOLD_PLACED,
    Action.DELETION_REQUEST_LEGAL_HOLD_RELEASED: EventType.REQUEST_LEGAL_HOLD_RELEASED,
    Action.DELETION_REQUEST_EXTENDED: EventType.REQUEST_EXTENDED,
    Action.DELETION_REQUEST_DUE_SOON: EventType.REQUEST_DUE_SOON,
    Action.DELETION_REQUEST_OVERDUE: EventType.REQUEST_OVERDUE,
    Action.DELETION_REQUEST_REOPENED: EventType.REQUEST_REOPENED,
}
_VERSIONS = {
    Action.VERSION_PROMOTED: EventType.VERSION_PROMOTED,
    Action.VERSION_WITHDRAWN: EventType.VERSION_WITHDRAWN,
    Action.VERSION_PURGED: EventType.VERSION_PURGED,
}
_TRAININGS = {
    Action.TRAINING_RUN_COMPLETED: EventType.TRAINING_RUN_COMPLETED,
    Action.TRAINING_RUN_FAILED: EventType.TRAINING_RUN_FAILED,
    Action.TRAINING_RUN_CANCELLED: EventType.TRAINING_RUN_CANCELLED,
}

_KNOWN: Mapping[str, tuple[EventType, _Described]] = {
    action.value: (kind, described)
    for kinds, described in (
        (_REQUESTS, _of_request),
        (_VERSIONS, _of_version),
        (_TRAININGS, _of_training),
        ({Action.WEBHOOK_TESTED: EventType.WEBHOOK_TESTED}, _of_webhook),
    )
    for action, kind in kinds.items()
}
