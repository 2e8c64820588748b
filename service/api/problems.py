"""Every error as ``application/problem+json`` (RFC 9457): what is wrong and what to do next.

A problem never quotes what the client sent: a body may hold a subject's identity, and problems
are copied into logs and tickets.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import exc as sql
from starlette.exceptions import HTTPException

from service import logs
from service.api import openapi
from service.errors import (
    Busy,
    NotFound,
    ServiceError,
    StorageFaulty,
    StorageFull,
    StorageReadOnly,
    Unavailable,
    Unprocessable,
)
from service.ledger.database import storage, transactions

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
#: Retry-After for a full disk, which is not freed within seconds.
STORAGE_RETRY_SECONDS = 60
MAX_FIELDS = 20

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

log = logging.getLogger("service.problems")

_OF_STORAGE = {
    storage.Fault.FULL: StorageFull,
    storage.Fault.READ_ONLY: StorageReadOnly,
    storage.Fault.FAULTY: StorageFaulty,
}


class FieldProblem(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(examples=["body.record_ids"])
    reason: str = Field(examples=["Field required"])


class Problem(BaseModel):
    """An error as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", description="identifies the kind of problem")
    title: str = Field(examples=["There is no such thing"])
    status: int = Field(examples=[404])
    code: str = Field(description="stable word for programs", examples=["not-found"])
    detail: str = Field(description="what happened and what to do next")
    fields: list[FieldProblem] | None = Field(None, description="which fields are invalid")
    reference: str | None = Field(None, description="names the log line of an internal error")
    request_id: str | None = Field(None, description="names the request in log lines and traces")


DESCRIPTIONS: Mapping[int, str] = {
    400: "The body is not readable JSON, a header comes twice, or the request is malformed.",
    401: "No API key, or one that is unknown, expired or revoked.",
    403: "The API key lacks the scope.",
    404: "There is no such thing.",
    405: "This path does not have the method.",
    406: "The document has no form that the Accept header names.",
    409: "The present state does not allow this; the detail says what to do.",
    410: "It was withdrawn or destroyed.",
    412: "A precondition does not hold.",
    413: "The body or a list in it is over its limit.",
    415: "The endpoint does not read this content type.",
    416: "The requested range does not lie in the file.",
    422: "The request was read and is invalid; `fields` says where.",
    429: "A rate or a queue is at its limit; see `Retry-After`.",
    500: "An internal error; `reference` names its log line.",
    503: "A part that is needed does not answer, or its storage is full; see `Retry-After`.",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the problems that an endpoint may answer with."""
    return {
        status: {
            "description": DESCRIPTIONS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status in statuses
    }


_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}

#: Problems that every endpoint behind an API key may answer.
SECURED = responses(400, 401, 403, 422, 429, 500, 503)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem response."""
    app.add_exception_handler(ServiceError, _of_service)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(sql.DBAPIError, _of_database)
    app.add_exception_handler(sql.TimeoutError, _of_database)


def render(error: ServiceError) -> Response:
    """Return the response of a service error."""
    body = describe(error)
    headers = _retry_after(error)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="unlearning"'
    if error.status == 406:
        headers["Vary"] = "Accept"
    return _answer(error.status, body, headers)


def describe(error: ServiceError) -> dict[str, Any]:
    """Return the members of a service error's problem."""
    return {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        **error.extra,
    }


def of(error: Exception) -> ServiceError:
    """Return the service error that the client gets for any error; log an internal one."""
    if isinstance(error, ServiceError):
        return error
    fault = storage.fault(error)
    if fault is not None:
        log.error("the database's disk: %s", fault.value)
        return _OF_STORAGE[fault](
            f"{storage.DETAILS[fault]}; then try again, with the same Idempotency-Key where you "
            "gave one",
            retry_after_seconds=STORAGE_RETRY_SECONDS,
        )
    if isinstance(error, sql.DBAPIError) and (
        transactions.is_kept_waiting(error) or transactions.is_victim(error)
    ):
        log.warning("a lock was not granted: others write to the same dataset or model")
        return Busy(
            "others were changing the same dataset or model for too long, so that nothing was "
            "recorded; try again, with the same Idempotency-Key where you gave one",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    if isinstance(error, sql.OperationalError | sql.InterfaceError | sql.TimeoutError) or (
        isinstance(error, sql.DBAPIError) and error.connection_invalidated
    ):
        log.warning("the database does not answer: %s", type(error).__qualname__)
        return Unavailable(
            "the database does not answer now; try again, with the same Idempotency-Key "
            "where you gave one",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    if isinstance(error, sql.DataError):
        return Unprocessable("a value is out of the range that can be stored")
    return _internal(error)


def unexpected(error: BaseException) -> Response:
    """Return a 500 without internal details; log the error without any data."""
    return render(_internal(error))


def _internal(error: BaseException) -> ServiceError:
    reference = secrets.token_hex(8)
    # An exception's message may quote what a client sent; its class and traceback suffice.
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("internal error %s: %s\n%s", reference, type(error).__qualname__, frames)
    return ServiceError(
        "an internal error; give the reference to the operator, who finds it in the log",
        reference=reference,
    )


def fields(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Return each field and what is wrong with it, without pydantic's copy of the value."""
    return [
        {"field": _place(error["loc"]), "reason": _reason(error)} for error in errors[:MAX_FIELDS]
    ]


def _place(location: Sequence[Any]) -> str:
    return ".".join(_step(part) for part in location)


def _step(part: Any) -> str:
    # The name of an unknown field comes from the client and may be anything.
    return str(part) if isinstance(part, int) or _NAME.fullmatch(str(part)) else "(…)"


#: Kinds of pydantic error whose message quotes the input.
_QUOTING = frozenset({"union_tag_invalid"})


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "this field is not known here; leave it out"
    if error["type"] in _QUOTING:
        return "this is not one of the values known here"
    return str(error["msg"]).removeprefix("Value error, ")


async def _of_service(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return render(error)


async def _of_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return render(
        Unprocessable(
            "some fields are invalid; correct those that `fields` names",
            fields=fields(error.errors()),
        )
    )


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {
        400: ("bad-request", "The request is malformed", "the request could not be read"),
        404: (
            NotFound.code,
            NotFound.title,
            "there is no such path here; /openapi.json lists every path",
        ),
        405: (
            "method-not-allowed",
            "This path does not know the method",
            "use one of the methods that the Allow header names",
        ),
    }
    code, title, detail = known.get(error.status_code, ("http-error", "Not possible", ""))
    body = {
        "type": "about:blank",
        "title": title,
        "status": error.status_code,
        "code": code,
        "detail": detail,
    }
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # If several routes have this path, the router only names the methods of the first. The
        # document does not list the console's pages.
        known_methods = openapi.methods(request.app.openapi(), request.url.path)
        if known_methods:
            headers["Allow"] = ", ".join(known_methods)
    return _answer(error.status_code, body, headers)


async def _of_database(_request: Request, error: Exception) -> Response:
    return render(of(error))


def _retry_after(error: ServiceError) -> dict[str, str]:
    seconds = error.retry_after_seconds
    if seconds is None and error.status in (429, 503):
        seconds = RETRY_AFTER_SECONDS
    return {} if seconds is None else {"Retry-After": str(seconds)}


def _answer(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    request_id = logs.current_request_id()
    if request_id is not None:
        body = {**body, "request_id": request_id}
    content = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return Response(content, status, dict(headers), MEDIA_TYPE)
