"""Webhooks over HTTP: add, list, change, remove; rotate the secret, replay, test."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from fastapi import Body, Path, Query, Response
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from service.api import auth, bodies, deps, pagination, problems, schemas
from service.ledger.database import db
from service.ledger.database.states import WebhookStatus
from service.ledger.database.tables import Webhook, WebhookDelivery
from service.ledger.webhooks import endpoints
from service.ledger.webhooks.destinations import MAX_URL_LENGTH, Rules
from service.ledger.webhooks.events import EventType
from service.ledger.webhooks.sealing import Sealer
from service.ledger.webhooks.signatures import Scheme

router = bodies.router("/v1/webhooks", tag="webhooks")

Caller = Annotated[auth.Principal, auth.require("webhooks:write")]
WebhookId = Annotated[str, Path(pattern=r"^wh_[0-9a-z]{26}$", description="id of the webhook")]

Url = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_LENGTH)]
Description = Annotated[str, StringConstraints(max_length=255)]
# Values of the enumeration are text in JSON, which strict models would not turn into its members.
Types = Annotated[
    list[Annotated[EventType, Field(strict=False)]], Field(min_length=1, max_length=len(EventType))
]

_TYPES = "types of the events that it is told; null: all, also those of later releases"
_URL = "deliveries are POST requests to it; it must be https and lead to a public address"
_BY_PATH = problems.responses(404)


class NewWebhook(schemas.Body):
    """A receiver of events."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "url": "https://hooks.example.org/unlearn",
                    "types": [EventType.REQUEST_COMPLETED, EventType.REQUEST_NEEDS_REVIEW],
                }
            ]
        }
    )

    url: Url = Field(description=_URL, repr=False)
    description: Description | None = None
    types: Types | None = Field(None, description=_TYPES)
    scheme: Annotated[Scheme, Field(strict=False)] = Field(
        Scheme.HMAC,
        description="hmac-sha256: signed with a shared secret, shown once; ed25519: the receiver "
        "checks signatures with `public_key` and keeps no secret",
    )


class WebhookChange(schemas.Body):
    """What to change of a webhook; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    url: Url = Field(default_factory=str, description=_URL, repr=False)
    description: Description | None = None
    types: Types | None = Field(None, description=_TYPES)
    status: Annotated[WebhookStatus, Field(strict=False)] = Field(
        default_factory=lambda: WebhookStatus.ACTIVE,
        description="`active` has it be told of everything since it was disabled",
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give url, description, types or status")
        return self


class Rotation(schemas.Body):
    """How the secret is replaced."""

    overlap_seconds: int = Field(
        int(endpoints.OVERLAP.total_seconds()),
        ge=0,
        le=int(endpoints.LONGEST_OVERLAP.total_seconds()),
        description="how long the replaced secret signs as well",
    )


class Replay(schemas.Body):
    """Where to continue: exactly one of ``after`` and ``since``."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["after"]}, {"required": ["since"]}],
            "examples": [{"after": 41}, {"since": "2026-05-25T00:00:00Z"}],
        }
    )

    # Defaults by factory mark a field as absent and do not appear in the document.
    after: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        default_factory=lambda: -1,
        description="the event of the next line of the audit chain is told first",
    )
    since: Annotated[AwareDatetime, BeforeValidator(schemas.moment), Field(strict=False)] = Field(
        default_factory=db.now, description="events from this moment on are told"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of after and since")
        return self


class WebhookView(BaseModel):
    """A webhook, without its secret."""

    id: str = Field(examples=["wh_01k0c9m2vq8f4t6x3z5b7n1r9d"])
    url: str
    description: str | None
    types: list[str] | None = Field(description=_TYPES)
    scheme: Scheme
    public_key: str | None = Field(description="checks signatures of ed25519; null of the other")
    status: WebhookStatus
    status_reason: str | None = Field(description="why it is disabled")
    after: int = Field(description="line of the audit chain up to which it was told everything")
    behind: int = Field(description="lines of the audit chain after that one")
    failures: int = Field(description="failed attempts since the last delivery")
    failing_since: datetime | None
    next_attempt_at: datetime | None = Field(description="null: at once, when there is an event")
    delivered_at: datetime | None = Field(description="when an event was last delivered")
    previous_secret_until: datetime | None = Field(
        description="until then the replaced secret signs as well"
    )
    created_at: datetime


class WebhookWithSecret(WebhookView):
    """A webhook with its secret, which is shown this once."""

    secret: str | None = Field(
        description="keep it now; null if `public_key` checks the signatures",
        examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"],
    )


class Delivery(BaseModel):
    """One attempt to deliver an event."""

    event_id: str = Field(
        description="`webhook-id` of the attempt", examples=["42-9f86d081884c7d65"]
    )
    type: str
    line: int = Field(description="the event's line of the audit chain")
    at: datetime
    seconds: float
    outcome: Literal["delivered", "failed"]
    answered: int | None = Field(description="the receiver's HTTP status; null: no answer")
    error: str | None = Field(description="why it failed")


@router.post(
    "",
    status_code=201,
    response_model=WebhookWithSecret,
    responses=problems.responses(409, 413, 415),
    summary="Add a webhook",
)
def create(
    given: NewWebhook,
    caller: Caller,
    session: deps.Session,
    settings: deps.Settings,
    response: Response,
) -> Any:
    """Have a receiver be told of what happens from now on, and show its secret once."""
    row, secret = endpoints.create(
        session,
        endpoints.New(given.url, given.description, given.types, given.scheme),
        rules=Rules.from_settings(settings),
        sealer=Sealer.from_settings(settings),
        actor=caller.actor,
        now=db.now(),
    )
    shown = view(row, endpoints.head(session)) | {"secret": secret}
    session.commit()
    response.headers["Location"] = f"/v1/webhooks/{row.id}"
    return shown


@router.get("", response_model=pagination.Page[WebhookView], summary="List webhooks, oldest first")
def listing(_: Caller, session: deps.Reader, paging: pagination.Asked) -> Any:
    """Return one page; pass `next_cursor` as `cursor` for the next one."""
    rows = endpoints.listing(session, after=paging.after(str), limit=paging.fetch)
    page = paging.page(rows, key=lambda row: row.id)
    last = endpoints.head(session)
    page["items"] = [view(row, last) for row in page["items"]]
    return page


@router.get(
    "/{webhook_id:segment}", response_model=WebhookView, responses=_BY_PATH, summary="One webhook"
)
def show(webhook_id: WebhookId, _: Caller, session: deps.Reader) -> Any:
    """Return a webhook and how far it has come."""
    return view(endpoints.get(session, webhook_id), endpoints.head(session))


@router.patch(
    "/{webhook_id:segment}",
    response_model=WebhookView,
    responses=problems.responses(404, 409, 413, 415),
    summary="Change, disable or enable a webhook",
)
def change(
    webhook_id: WebhookId,
    given: WebhookChange,
    caller: Caller,
    session: deps.Session,
    settings: deps.Settings,
    wake: deps.Wake,
) -> Any:
    """Change what is given. A webhook that is enabled continues where it stopped."""
    changes = given.model_dump(exclude_unset=True)
    status = changes.pop("status", None)
    if changes:
        rules = Rules.from_settings(settings)
        row = endpoints.change(
            session, webhook_id, changes, rules=rules, actor=caller.actor, now=db.now()
        )
    if status == WebhookStatus.ACTIVE:
        row = endpoints.enable(session, webhook_id, actor=caller.actor)
    elif status == WebhookStatus.DISABLED:
        row = endpoints.disable(
            session,
            webhook_id,
            because="disabled by its owner",
            actor=caller.actor,
            now=db.now(),
        )
    return _committed(session, row, wake)


@router.delete(
    "/{webhook_id:segment}", status_code=204, responses=_BY_PATH, summary="Remove a webhook"
)
def remove(webhook_id: WebhookId, caller: Caller, session: deps.Session) -> Response:
    """Remove the webhook with its secret and the list of its deliveries."""
    endpoints.remove(session, webhook_id, actor=caller.actor)
    session.commit()
    return Response(status_code=204)


@router.get(
    "/{webhook_id:segment}/deliveries",
    response_model=pagination.Page[Delivery],
    responses=_BY_PATH,
    summary="Attempts to deliver to a webhook, newest first",
)
def deliveries(
    webhook_id: WebhookId,
    _: Caller,
    session: deps.Reader,
    paging: pagination.Asked,
    outcome: Annotated[Literal["delivered", "failed"] | None, Query()] = None,
) -> Any:
    """Return one page of the attempts of the last 30 days."""
    endpoints.get(session, webhook_id)
    rows = endpoints.deliveries(
        session,
        webhook_id,
        before=paging.after(int),
        limit=paging.fetch,
        failed=None if outcome is None else outcome == "failed",
    )
    page = paging.page(rows, key=lambda row: row.id)
    page["items"] = [attempt(row) for row in page["items"]]
    return page


@router.post(
    "/{webhook_id:segment}:rotate-secret",
    response_model=WebhookWithSecret,
    responses=problems.responses(404, 413, 415),
    summary="Replace the secret of a webhook",
)
def rotate(
    webhook_id: WebhookId,
    given: Annotated[Rotation, Body(default_factory=Rotation)],
    caller: Caller,
    session: deps.Session,
    settings: deps.Settings,
) -> Any:
    """Replace the secret and show the new one once.

    During the overlap every delivery has two signatures, so that a receiver may change its secret
    at any time in between.
    """
    row, secret = endpoints.rotate(
        session,
        webhook_id,
        overlap=timedelta(seconds=given.overlap_seconds),
        sealer=Sealer.from_settings(settings),
        actor=caller.actor,
        now=db.now(),
    )
    shown = view(row, endpoints.head(session)) | {"secret": secret}
    session.commit()
    return shown


@router.post(
    "/{webhook_id:segment}:replay",
    response_model=WebhookView,
    responses=problems.responses(404, 413, 415),
    summary="Have events be told again, or skipped",
)
def replay(
    webhook_id: WebhookId, given: Replay, caller: Caller, session: deps.Session, wake: deps.Wake
) -> Any:
    """Continue at another place of the audit chain: at once, in order, under the same event ids.

    An earlier place repeats events; a later one skips those that the receiver cannot take.
    """
    chosen = given.model_dump(exclude_unset=True)
    row = endpoints.replay(session, webhook_id, **chosen, actor=caller.actor, now=db.now())
    return _committed(session, row, wake)


@router.post(
    "/{webhook_id:segment}:test",
    status_code=202,
    response_model=WebhookView,
    responses=problems.responses(404, 409),
    summary="Send a webhook an event of type unlearn.webhook.tested",
)
def test(webhook_id: WebhookId, caller: Caller, session: deps.Session, wake: deps.Wake) -> Any:
    """Have the webhook be told of this call; `deliveries` shows what came of it."""
    row = endpoints.test(session, webhook_id, actor=caller.actor)
    return _committed(session, row, wake)


def _committed(session: deps.Session, row: Webhook, wake: deps.Wake) -> dict[str, Any]:
    shown = view(row, endpoints.head(session))
    session.commit()
    wake.events()
    return shown


def view(row: Webhook, last: int) -> dict[str, Any]:
    """Return a webhook in its public form; ``last`` is the audit chain's last line."""
    return {
        "id": row.id,
        "url": row.url,
        "description": row.description,
        "types": row.types,
        "scheme": row.scheme,
        "public_key": row.public_key,
        "status": row.status,
        "status_reason": row.status_reason,
        "after": row.seq,
        "behind": max(0, last - row.seq),
        "failures": row.failures,
        "failing_since": row.failing_since,
        "next_attempt_at": row.not_before,
        "delivered_at": row.delivered_at,
        "previous_secret_until": row.previous_until,
        "created_at": row.created_at,
    }


def attempt(row: WebhookDelivery) -> dict[str, Any]:
    """Return an attempt to deliver in its public form."""
    return {
        "event_id": row.event_id,
        "type": row.type,
        "line": row.seq,
        "at": row.at,
        "seconds": row.seconds,
        "outcome": "delivered" if row.error is None else "failed",
        "answered": row.answered,
        "error": row.error,
    }
