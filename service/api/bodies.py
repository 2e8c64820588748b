"""JSON bodies in and out: right content type, right size, only values that can be stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from service.api import auth, parameters, repeats
from service.errors import ServiceError, Unprocessable, UnsupportedMediaType

MAX_DEPTH = 32


class UnreadableBody(ServiceError):
    """The body is not JSON."""

    status: ClassVar[int] = 400
    code: ClassVar[str] = "unreadable-body"
    title: ClassVar[str] = "The body is not readable JSON"


class JsonRequest(Request):
    """A request whose JSON is parsed strictly.

    RFC 8259 without NaN, NUL, unpaired surrogates, or two members with one name.
    """

    async def json(self) -> Any:
        """Return the parsed body."""
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route that refuses everything it does not know.

    It answers 415 to a body of another content type, before reading it; if every field may be left
    out, so may the body. It refuses unknown query parameters and repeated headers. Its endpoint is
    called once more after a deadlock.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, repeats.once(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind the stricter checks."""
        handle = super().get_route_handler()
        known = parameters.Parameters.of(self.dependant)
        secured = parameters.depends_on(self.dependant, auth.scheme)
        has_body = self.body_field is not None
        optional = self.body_field is not None and not self.body_field.field_info.is_required()

        async def read(request: Request) -> Response:
            # Without a valid key nothing of the body is read.
            if secured:
                await auth.admit(request)
            known.check(request)
            if not has_body or (optional and not _is_sent(request)):
                return await handle(request)
            if not _is_json(request.headers.get("content-type", "")):
                raise UnsupportedMediaType("send the body as application/json")
            strict = JsonRequest(request.scope, request.receive)
            if await strict.json() is None and optional:
                raise Unprocessable("send a JSON object, or no body at all")
            return await handle(strict)

        return read


def router(prefix: str = "", *, tag: str) -> APIRouter:
    """Return a router of JSON endpoints."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=JsonRoute)


def answer(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response of values that need no conversion."""
    content = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return Response(content, status, dict(headers or {}), "application/json")


def parse(body: bytes) -> Any:
    """Return the JSON value of ``body``; the 400 or 422 for a bad one does not quote it."""
    try:
        parsed = json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError):
        raise UnreadableBody("send one JSON value in UTF-8 as RFC 8259 has it") from None
    _check(parsed, MAX_DEPTH, b"\\u" in body)
    return parsed


def _check(value: Any, depth: int, escapes: bool) -> None:
    if depth == 0:
        raise Unprocessable(f"the body is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, member in value.items():
            _check_text(key, escapes)
            _check(member, depth - 1, escapes)
    elif isinstance(value, list):
        for member in value:
            _check(member, depth - 1, escapes)
    elif isinstance(value, str):
        _check_text(value, escapes)


def _check_text(text: str, escapes: bool) -> None:
    # Only an escape can produce a NUL or an unpaired surrogate.
    if escapes and ("\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)):
        raise Unprocessable("a text holds a NUL or an unpaired surrogate; neither can be stored")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise UnreadableBody("an object of the body has two members of one name; send each once")
    return made


def _refuse_constant(_name: str) -> float:
    raise ValueError


def _is_sent(request: Request) -> bool:
    """Return whether the request has a body by HTTP/1.1's rules (RFC 9112, section 6.3)."""
    if "transfer-encoding" in request.headers:
        return True
    return request.headers.get("content-length", "0").strip() != "0"


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )
