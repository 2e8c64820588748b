"""Decisions about every deletion request that fits a filter: count, confirm, go on, look."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, StringConstraints

from service.api import auth, bodies, deps, problems
from service.api.schemas import Body, DatasetName, moment
from service.ledger.database import db
from service.ledger.registry.keys import Scope
from service.ledger.requests import bulk
from service.ledger.requests.lifecycle import DenialReason

router = bodies.router("/v1/bulk-decisions", tag="deletion requests")
verb_router = bodies.router(tag="deletion requests")

Reader = Annotated[auth.Principal, auth.require("requests:read")]
DecisionId = Annotated[
    str, Path(pattern=r"^bd_[0-9a-z]{26}$", description="id of the bulk decision")
]
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(moment)]
ActionName = Literal["approve", "deny", "retry"]


class BulkFilter(Body):
    """Conditions on the requests; `{}`: all that the action is possible for."""

    dataset: DatasetName | None = None
    model: DatasetName | None = None
    due_before: Moment | None = Field(None, examples=["2026-05-25T00:00:00Z"])
    received_before: Moment | None = Field(None, examples=["2026-05-25T00:00:00Z"])
    reference: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = Field(
        None, description="how the client's own name of the request begins"
    )

    def chosen(self) -> bulk.Filter:
        """Return the ledger's filter."""
        return bulk.Filter(**self.model_dump())


class BulkQuestion(Body):
    """What would be decided about which requests."""

    action: ActionName = Field(
        description="approve or deny what waits for approval (`requests:approve`), or retry what "
        "needs review (`requests:write`)"
    )
    filter: BulkFilter = Field(default_factory=BulkFilter)


class NewBulkDecision(BulkQuestion):
    """A decision, with the number of requests that a person has seen and confirmed."""

    matching: int = Field(
        ge=0, le=2**31 - 1, description="of the preview; 409 if another number fits by now"
    )
    counted_up_to: int | None = Field(
        None,
        ge=0,
        le=2**53 - 1,
        description="of the preview; 409 if as many fit by now, but others than were counted",
    )
    reason: Annotated[str, StringConstraints(max_length=2000)] | None = Field(
        None, description="why, for denials; stored with each request"
    )
    reason_code: Annotated[DenialReason, Field(strict=False)] = DenialReason.OTHER


class BulkPreview(BaseModel):
    """How many requests fit now; nothing is recorded."""

    action: ActionName
    matching: int
    counted_up_to: int = Field(description="last line of the audit chain before they were counted")


class Refusal(BaseModel):
    """A request that was left as it is, and why."""

    request: str
    detail: str


class BulkDecision(BaseModel):
    """A decision and how far it has come; requests that no longer fitted are not counted."""

    id: str
    action: ActionName
    filter: dict[str, Any]
    matching: int = Field(description="requests that fitted when it was confirmed")
    done: int
    refused: int
    refusals: list[Refusal] = Field(description="the first hundred")
    created_at: datetime
    ended_at: datetime | None = Field(description="null: call `:continue`")


@verb_router.post(
    "/v1/bulk-decisions:preview",
    response_model=BulkPreview,
    responses=problems.responses(413, 415),
    summary="Count the deletion requests that a decision would be about",
)
def preview(session: deps.Reader, principal: Reader, body: BulkQuestion) -> Response:
    """Return how many requests fit now.

    The key needs the scope of the action, too: `requests:approve`, or `requests:write` to retry.
    """
    _require(principal, body.action)
    found = bulk.count(session, bulk.Action(body.action), body.filter.chosen())
    return bodies.answer(
        {"action": body.action, "matching": found.number, "counted_up_to": found.up_to}
    )


@router.post(
    "",
    status_code=201,
    response_model=BulkDecision,
    responses=problems.responses(409, 413, 415),
    summary="Decide about every deletion request that fits a filter",
)
def create(session: deps.Session, principal: Reader, body: NewBulkDecision) -> Response:
    """Record the decision, to which the key needs the scope of the action as well.

    It covers the requests that fit now and no later ones; with `counted_up_to` of the preview they
    are those that were counted there. Nothing is decided about yet: call
    `:continue` until `ended_at` is set.
    """
    _require(principal, body.action)
    row = bulk.begin(
        session,
        bulk.Action(body.action),
        body.filter.chosen(),
        matching=body.matching,
        up_to=body.counted_up_to,
        reason=body.reason,
        code=body.reason_code,
        actor=principal.actor,
        now=db.now(),
    )
    described = bulk.describe(row)
    session.commit()
    return bodies.answer(
        described, status=201, headers={"Location": f"/v1/bulk-decisions/{row.id}"}
    )


@router.post(
    "/{decision_id:segment}:continue",
    response_model=BulkDecision,
    responses=problems.responses(404),
    summary="Decide about the next requests of a bulk decision",
)
def go_on(
    request: Request,
    session: deps.Reader,
    principal: Reader,
    wake: deps.Wake,
    decision_id: DecisionId,
    limit: Annotated[
        int, Query(ge=1, le=bulk.MOST_AT_ONCE, description="most requests to decide about now")
    ] = bulk.MOST_AT_ONCE,
) -> Response:
    """Decide about the next requests, each by itself and under the name of the key that began it.

    A request that is refused, such as one under a legal hold or one that needs a second person,
    is listed and left as it is. May be repeated: nothing is decided about twice.
    """
    action = bulk.get(session, decision_id).action
    session.close()
    _require(principal, action)
    row = bulk.go_on(request.app.state.sessions, decision_id, actor=principal.actor, most=limit)
    if action != bulk.Action.DENY:
        wake.deletions()
    return bodies.answer(bulk.describe(row))


@router.get(
    "/{decision_id:segment}",
    response_model=BulkDecision,
    responses=problems.responses(404),
    summary="A bulk decision and its progress",
)
def show(session: deps.Reader, _principal: Reader, decision_id: DecisionId) -> Response:
    """Return the decision with how many requests it has decided about, and what was refused."""
    return bodies.answer(bulk.describe(bulk.get(session, decision_id)))


def _require(principal: auth.Principal, action: str) -> None:
    scope = Scope(bulk.SCOPES[bulk.Action(action)])
    if not principal.may(scope):
        raise auth.lacks(scope)
