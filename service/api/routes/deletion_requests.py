"""Deletion requests over HTTP: create, preview, list, follow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Header, Path, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator, ValidationError

from service.api import auth, bodies, deps, limits, negotiation, pagination, problems
from service.api.recorder import Outcome, Recorder
from service.api.routes import deletion_requests_schemas as schemas
from service.api.schemas import Signed, moment
from service.errors import ServiceError, TooLarge, Unprocessable
from service.ledger.audit import canonical, chain
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.requests import idempotency, lookup, page, previews, receipts
from service.ledger.selection.digests import Digester
from service.ledger.selection.regulations import Period, Regulation
from service.settings import Settings

POLL_SECONDS = 2

router = bodies.router("/v1/deletion-requests", tag="deletion requests")

Writer = Annotated[auth.Principal, auth.require("requests:write")]
Reader = Annotated[auth.Principal, auth.require("requests:read")]
RequestId = Annotated[str, Path(pattern=r"^dr_[0-9a-z]{26}$", description="id of the request")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=schemas.KEY_PATTERN,
        description="repeat a call with the same key and body to get the same answer, once",
    ),
]

_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Recorded; workers will carry it out.",
        "headers": {
            "Location": {"schema": {"type": "string"}, "description": "where to follow it"},
            "Retry-After": {"schema": {"type": "integer"}, "description": "seconds"},
        },
    }
}
_REFUSED = problems.responses(404, 409, 410, 413, 415)


@router.post(
    "",
    status_code=202,
    response_model=schemas.DeletionRequest,
    responses={**_ACCEPTED, **_REFUSED},
    summary="Request that records, a subject or a class be forgotten",
)
async def create(
    request: Request,
    body: schemas.NewDeletionRequest,
    principal: Writer,
    settings: deps.Settings,
    digester: deps.Digests,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Record the request and answer once it is stored durably.

    Workers carry it out in batches; follow it at `Location`.
    """
    asked = submission(body, idempotency_key, principal, digester, settings)
    recorder: Recorder = request.app.state.recorder
    [outcome] = await recorder.record([asked])
    if isinstance(outcome, ServiceError):
        raise outcome
    headers = {
        "Location": f"/v1/deletion-requests/{outcome.answer['id']}",
        "Retry-After": str(POLL_SECONDS),
    }
    if outcome.repeated:
        headers["Idempotency-Replayed"] = "true"
    return bodies.answer(outcome.answer, status=202, headers=headers)


async def create_batch(
    request: Request,
    body: schemas.NewBatch,
    principal: Writer,
    settings: deps.Settings,
    digester: deps.Digests,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept or refuse each item on its own; `items` has the results in the same order.

    Items that name more than 10,000 records together are recorded in several transactions. An
    `Idempotency-Key` of the call covers every item that has none of its own.
    """
    outcomes: list[Outcome] = []
    submissions: list[page.Submission] = []
    places: list[int] = []
    for place, item in enumerate(body.items):
        try:
            submissions.append(_item(item, place, idempotency_key, principal, digester, settings))
            places.append(place)
            outcomes.append(_PENDING)
        except ServiceError as refusal:
            outcomes.append(refusal)
    if submissions:
        recorder: Recorder = request.app.state.recorder
        for place, outcome in zip(places, await recorder.record(submissions), strict=True):
            outcomes[place] = outcome
    return bodies.answer(_results(outcomes), status=202, headers={"Retry-After": str(POLL_SECONDS)})


verb_router = bodies.router(tag="deletion requests")
verb_router.add_api_route(
    "/v1/deletion-requests:batch",
    create_batch,
    methods=["POST"],
    status_code=202,
    response_model=schemas.BatchResults,
    responses={**problems.responses(413, 415)},
    summary="Send up to 1,000 deletion requests at once",
)


@verb_router.post(
    "/v1/deletion-requests:preview",
    response_model=schemas.Preview,
    responses=problems.responses(404, 409, 410, 413, 415),
    summary="Preview what a deletion request would match",
)
def preview(
    request: Request,
    session: deps.Session,
    body: schemas.NewDeletionRequest,
    principal: Writer,
    settings: deps.Settings,
    digester: deps.Digests,
) -> Response:
    """Return what a request with this body would meet.

    Nothing is recorded except that this key asked; the number of previews is limited.
    """
    limiter: limits.Limiter = request.app.state.previews
    limiter.take(principal.key_id)
    check_size(body, settings)
    seen = previews.preview(
        session,
        body.ask(usual(settings)),
        principal=principal.key_id,
        digester=digester,
        now=db.now(),
    )
    session.commit()
    return bodies.answer(seen)


@router.get(
    "",
    response_model=pagination.Page[schemas.DeletionRequest],
    responses=problems.responses(404),
    summary="List deletion requests, oldest first",
)
def listing(
    session: deps.Reader,
    _principal: Reader,
    paging: pagination.Asked,
    status: Annotated[RequestStatus | None, Query()] = None,
    dataset: Annotated[str | None, Query(pattern=deps.NAME_PATTERN)] = None,
    model: Annotated[str | None, Query(pattern=deps.NAME_PATTERN)] = None,
    due_before: Annotated[
        AwareDatetime | None,
        BeforeValidator(moment),
        Query(examples=["2026-05-25T00:00:00Z"]),
    ] = None,
) -> Response:
    """Return one page; pass `next_cursor` as `cursor` for the next one."""
    chosen = lookup.Filter(status, dataset, model, due_before)
    rows = lookup.listing(session, chosen, after=paging.after(str), limit=paging.fetch)
    return bodies.answer(paging.page(rows, key=lambda row: row["id"]))


@router.get(
    "/{request_id:segment}",
    response_model=schemas.DeletionRequestDetail,
    responses=problems.responses(404),
    summary="One deletion request",
)
def show(session: deps.Reader, _principal: Reader, request_id: RequestId) -> Response:
    """Return the request with its state on each model."""
    return bodies.answer(lookup.detail(session, lookup.get(session, request_id)))


@router.get(
    "/{request_id:segment}/events",
    response_model=schemas.Events,
    responses=problems.responses(404),
    summary="The events of a deletion request",
)
def events(
    session: deps.Reader, _principal: Reader, request_id: RequestId, paging: pagination.Asked
) -> Response:
    """Return its lines of the audit chain, and the state of its erasure on each model.

    A batch is claimed with one line, `batch:claimed`, which names every request in it.
    """
    found = lookup.detail(session, lookup.get(session, request_id))
    lines = lookup.events(session, request_id, after=paging.after(int), limit=paging.fetch)
    page = paging.page(lines, key=lambda line: line.seq)
    page["items"] = [chain.describe(line) for line in page["items"]]
    return bodies.answer({**page, "erasures": found["erasures"]})


@router.get(
    "/{request_id:segment}/receipt",
    response_model=Signed,
    responses={
        **negotiation.described("The receipt, as signed JSON or as a page to print."),
        **problems.responses(404, 406),
    },
    summary="The signed receipt of a deletion request",
)
def receipt(
    request: Request,
    session: deps.Reader,
    signer: deps.Signer,
    pages: deps.Pages,
    _principal: Reader,
    request_id: RequestId,
) -> Response:
    """Return a signed receipt for the person, by the Accept header as JSON or as a page.

    It tells what was asked, what was done with how many models, what that means, and what remains.
    It has no figure about others, no id of another request, and no text that operators wrote for
    each other. `unlearn receipts verify` checks a saved one in either form.
    """
    row = lookup.get(session, request_id)
    form = negotiation.choose(request, (negotiation.JSON, negotiation.HTML))
    made = receipts.receipt(session, row, signer=signer, now=db.now())
    return negotiation.answer(form, canonical.encode(made), pages.receipt)


#: Placeholder for an item whose outcome is not known yet.
_PENDING = ServiceError("not recorded")


def submission(
    body: schemas.NewDeletionRequest,
    key: str | None,
    principal: auth.Principal,
    digester: Digester,
    settings: Settings,
) -> page.Submission:
    """Return what is recorded for a body and its idempotency key."""
    check_size(body, settings)
    claim = None
    if key is not None:
        said = body.model_dump(exclude_unset=True, exclude={"idempotency_key"})
        digests = digester.bodies(principal.key_id, json.dumps(said, sort_keys=True))
        claim = idempotency.Claim(principal.key_id, key, digests)
    return page.Submission(body.ask(usual(settings)), principal.key_id, claim)


def usual(settings: Settings) -> Period:
    """Return when a request is due that does not say so itself."""
    return Period(Regulation(settings.regulation), settings.due_days)


def check_size(body: schemas.NewDeletionRequest, settings: Settings) -> None:
    """Raise ``TooLarge`` for a body that names more records than one request may."""
    if len(body.record_ids) > settings.max_records_per_request:
        raise TooLarge(
            f"a request may name at most {settings.max_records_per_request} records; "
            "split it into several"
        )


def _item(
    item: Any,
    place: int,
    key: str | None,
    principal: auth.Principal,
    digester: Digester,
    settings: Settings,
) -> page.Submission:
    try:
        body = schemas.NewBatchItem.model_validate(item)
    except ValidationError as error:
        raise Unprocessable(
            "some fields of this item are invalid; correct those that `fields` names",
            fields=problems.fields(error.errors(include_input=False, include_url=False)),
        ) from None
    own = body.idempotency_key or (None if key is None else f"{key}/{place}")
    return submission(body, own, principal, digester, settings)


def _results(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    refused = sum(isinstance(one, ServiceError) for one in outcomes)
    return {
        "items": [
            {"status": one.status, "request": None, "problem": problems.describe(one)}
            if isinstance(one, ServiceError)
            else {"status": 202, "request": one.answer, "problem": None}
            for one in outcomes
        ],
        "accepted": len(outcomes) - refused,
        "refused": refused,
    }
