"""OpenDSR 2.0 over HTTP: discovery, requests, their state, cancellation.

Answers about requests are signed over exactly the bytes that are sent. Errors are problems like any
other, with the specification's ``error`` object in them; an invalid body is 400, as it has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import IntegrityError

from service.api import auth, bodies, deps, problems
from service.api.routes import opendsr_schemas as schemas
from service.errors import ServiceError, Unprocessable
from service.ledger.database import db
from service.ledger.opendsr import bodies as documents
from service.ledger.opendsr import processor, requests
from service.ledger.opendsr.identities import Ingested
from service.ledger.webhooks import destinations
from service.ledger.webhooks.destinations import Rules

#: The specification wants the major version in the URL; without it the path means the same.
PREFIXES = ("/opendsr", "/opendsr/v2")

PEM = "application/x-pem-file"


class UnsupportedType(Unprocessable):
    """This processor erases; it holds no records that it could hand out."""

    code = "unsupported-request-type"


class Route(bodies.JsonRoute):
    """A route whose errors are also what the specification has for them (section 7.6)."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the strict handler, with its errors in the specification's form."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                return _refusal(error)
            except RequestValidationError as error:
                return _refusal(
                    Unprocessable(
                        "some fields are invalid; correct those that `fields` names",
                        fields=problems.fields(error.errors()),
                    )
                )

        return answer


Writer = Annotated[auth.Principal, auth.require("opendsr:write", "requests:write")]
Reader = Annotated[auth.Principal, auth.require("opendsr:write", "requests:read")]
SubjectRequestId = Annotated[
    str,
    Path(
        pattern=schemas.UUID_PATTERN,
        description="the controller's id of the request",
        examples=[schemas.EXAMPLE_ID],
    ),
]


async def _body(request: Request) -> bytes:
    return await request.body()


Sent = Annotated[bytes, Depends(_body)]

_SIGNED = {
    name: {"schema": {"type": "string"}, "description": text}
    for name, text in (
        (processor.DOMAIN_HEADER, "the domain of the signing certificate"),
        (processor.SIGNATURE_HEADER, "signature of the body's SHA-256, base64"),
    )
}


def discovery(settings: deps.Settings) -> Response:
    """Return the identities that can be matched, the types of request and the certificate's URL."""
    found = processor.require(settings, now=db.now())
    # Not signed: everybody may ask, and a signature costs more than the rest of the answer.
    return bodies.answer(documents.discovery(found.domain, _ingested(settings)))


def certificate(settings: deps.Settings) -> Response:
    """Return the certificate of the processor's domain, with its chain."""
    return Response(processor.require(settings, now=db.now()).certificate, media_type=PEM)


def create(
    sent: Sent,
    given: schemas.NewRequest,
    principal: Writer,
    session: deps.Session,
    settings: deps.Settings,
    digester: deps.Digests,
    wake: deps.Wake,
) -> Response:
    """Record a deletion request for each subject id that the identities may stand for.

    They are looked for in every dataset that has subject ids. All of it is recorded, or nothing.
    """
    signer = processor.require(settings, now=db.now())
    if given.subject_request_type != "erasure":
        raise UnsupportedType(
            "this processor takes requests of the type erasure alone; ask the controller's other "
            "systems for access and portability"
        )
    if signer.domain in (name.lower() for name in given.extensions):
        raise Unprocessable("this processor has no extensions; leave out those for its domain")
    said = json.dumps(given.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    new = given.to_ledger(said)
    mine: dict[str, Any] = {"principal": principal.key_id, "digester": digester}

    def record() -> requests.Seen:
        seen = requests.create(
            session,
            new,
            ingested=_ingested(settings),
            max_queue=settings.max_queue,
            now=db.now(),
            **mine,
        )
        session.commit()
        return seen

    seen = requests.repeated(session, new, **mine)
    if seen is None:
        session.rollback()  # no transaction waits for a resolver
        for url in new.callbacks:
            destinations.check(url, Rules.from_settings(settings))
        try:
            seen = record()
        except IntegrityError:  # another call with this id was recorded at the same moment
            session.rollback()
            seen = record()
    wake.deletions()
    wake.events()
    return _signed(signer, documents.received(seen, sent), status=201)


def show(
    subject_request_id: SubjectRequestId,
    principal: Reader,
    session: deps.Reader,
    settings: deps.Settings,
) -> Response:
    """Return the state of a request that a key of the same name has sent."""
    signer = processor.require(settings, now=db.now())
    seen = requests.show(session, subject_request_id, principal=principal.key_id)
    return _signed(signer, documents.status(seen))


def cancel(
    subject_request_id: SubjectRequestId,
    principal: Writer,
    session: deps.Session,
    settings: deps.Settings,
    wake: deps.Wake,
) -> Response:
    """Cancel a request of which no worker has begun anything."""
    now = db.now()
    signer = processor.require(settings, now=now)
    seen = requests.cancel(session, subject_request_id, principal=principal.key_id)
    session.commit()
    wake.events()
    return _signed(signer, documents.cancelled(seen, now), status=202)


def open_router(prefix: str) -> APIRouter:
    """Return the routes under a prefix that need no key."""
    made = APIRouter(prefix=prefix, tags=["opendsr"], route_class=Route)
    made.add_api_route(
        "/discovery",
        discovery,
        response_model=schemas.Discovery,
        responses=problems.responses(404, 503),
        summary="What this OpenDSR processor supports",
    )
    made.add_api_route(
        "/certificate.pem",
        certificate,
        response_class=Response,
        responses={
            200: {"content": {PEM: {"schema": {"type": "string"}}}, "description": "PEM"},
            **problems.responses(404, 503),
        },
        summary="The certificate whose key signs OpenDSR answers and callbacks",
    )
    return made


def router(prefix: str) -> APIRouter:
    """Return the routes under a prefix that need a key."""
    made = APIRouter(prefix=prefix, tags=["opendsr"], route_class=Route)
    made.add_api_route(
        "/requests",
        create,
        methods=["POST"],
        status_code=201,
        response_model=schemas.Received,
        responses={201: {"headers": _SIGNED}, **problems.responses(404, 409, 413, 415)},
        summary="Request an erasure as OpenDSR has it",
    )
    made.add_api_route(
        "/requests/{subject_request_id}",
        show,
        response_model=schemas.State,
        responses={200: {"headers": _SIGNED}, **problems.responses(404)},
        summary="The state of an OpenDSR request",
    )
    made.add_api_route(
        "/requests/{subject_request_id}",
        cancel,
        methods=["DELETE"],
        status_code=202,
        response_model=schemas.Cancelled,
        responses={202: {"headers": _SIGNED}, **problems.responses(404, 409)},
        summary="Cancel an OpenDSR request that is pending",
    )
    return made


def _ingested(settings: deps.Settings) -> Ingested:
    return Ingested.parse(settings.opendsr_identities)


def _signed(signer: processor.Processor, body: bytes, *, status: int = 200) -> Response:
    return Response(body, status, signer.headers(body), "application/json")


def _refusal(error: ServiceError) -> Response:
    """Return the problem of an error with the specification's error object in it."""
    made = problems.render(error)
    problem: dict[str, Any] = json.loads(bytes(made.body))
    status = 400 if error.status == 422 else error.status
    problem |= {"status": status, "error": _error(problem, status)}
    headers = {k: v for k, v in made.headers.items() if k.lower() != "content-length"}
    content = json.dumps(problem, ensure_ascii=True, separators=(",", ":"))
    return Response(content, status, headers, problems.MEDIA_TYPE)


def _error(problem: Mapping[str, Any], status: int) -> dict[str, Any]:
    about = problem.get("fields") or [{"field": "", "reason": problem["detail"]}]
    return {
        "code": status,
        "message": problem["detail"],
        "errors": [
            {
                "domain": "Validation" if status == 400 else "Request",
                "reason": problem["code"],
                "message": ": ".join(filter(None, (one["field"], one["reason"]))),
            }
            for one in about
        ],
    }
