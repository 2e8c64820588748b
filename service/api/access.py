"""The outermost ASGI layer: size limits, security headers, the access log, unexpected errors.

A log line names the method, the path's template, the status and the time; URLs, headers and bodies
are never logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs, tracing
from service.api import metrics, problems
from service.errors import NotFound, ServiceError, TooLarge, Unprocessable

#: Status in the access log of a request whose client disconnected before it was read.
CLIENT_GONE = 499

log = logging.getLogger("service.access")

_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


#: What is called every few seconds and changes nothing.
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})


class BrokenResponseError(RuntimeError):
    """A response failed half-way; the connection is closed so that the client notices."""


class Access:
    """ASGI middleware around the whole application.

    ``answered`` receives the method, the path's template, the status and the seconds of each
    answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_upload_bytes: int,
        answered: Callable[[str, str, int, float], None] = lambda *_: None,
    ) -> None:
        self._app = app
        self._answered = answered
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _header(scope, b"x-request-id").decode("latin-1")
        with logs.about(request_id=logs.request_id(given)):
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _UNTRACED:
            await self._answer(scope, receive, send, tracing.NOTHING)
            return
        parent = _header(scope, b"traceparent").decode("latin-1")
        with tracing.span("HTTP", kind="server", parent=parent or None) as span:
            await self._answer(scope, receive, send, span)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, span: tracing.Span) -> None:
        started = time.perf_counter()
        answer = _Answer(send)
        try:
            limit = self._limit(scope)
            refusal = self._refusal(scope, limit)
            if refusal is not None:
                await _respond(refusal, scope, receive, answer)
            else:
                await self._app(scope, _limited(receive, limit), answer)
        except ClientDisconnect:
            # The client has disconnected, which is no error of the service.
            answer.status = CLIENT_GONE
        except ServiceError as error:
            await _respond(problems.render(error), scope, receive, answer)
        except Exception as error:  # last resort for any unexpected error
            await _respond(problems.unexpected(error), scope, receive, answer)
        finally:
            took = time.perf_counter() - started
            method, path = scope["method"], _template(scope)
            log.info(
                "%s %s %d %.1fms",
                method,
                path,
                answer.status,
                took * 1000,
                extra={"fields": _fields(method, path, answer.status, took)},
            )
            self._answered(method, path, answer.status, took)
            _describe(span, method, path, answer.status)

    def _limit(self, scope: Scope) -> int:
        # JSON routes refuse every other type before reading; bodies of other types are uploads,
        # but for the console's forms.
        kind = _header(scope, b"content-type").lower()
        is_text = not kind or b"json" in kind or b"x-www-form-urlencoded" in kind
        return self._max_body_bytes if is_text else self._max_upload_bytes

    def _refusal(self, scope: Scope, limit: int) -> Response | None:
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length[:20]) > limit:
            return _closing(problems.render(_too_large(limit)))
        if "\0" in scope["path"]:
            return problems.render(NotFound("there is no such path here"))
        if b"%00" in scope["query_string"] or b"\0" in scope["query_string"]:
            return problems.render(Unprocessable("a query parameter holds a NUL"))
        return None


def _fields(method: str, path: str, status: int, seconds: float) -> dict[str, object]:
    milliseconds = round(seconds * 1000, 1)
    return {"http_method": method, "path": path, "status": status, "milliseconds": milliseconds}


def _describe(span: tracing.Span, method: str, path: str, status: int) -> None:
    method = method if method in metrics.METHODS else "_OTHER"  # the convention's word
    span.rename(f"{method} {path}")
    span.set(
        {"http.request.method": method, "http.route": path, "http.response.status_code": status}
    )
    if status >= 500:
        span.fail(str(status))


def _limited(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"a body of this type may have at most {limit} bytes")


@dataclass
class _Answer:
    """Passes messages on to the server, and adds the headers that every response has.

    Those that a response has itself are kept: a page of the console says what it loads.
    """

    send: Send
    status: int = 500
    started: bool = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.started = True
            headers = list(message.get("headers", ()))
            own = {name for name, _ in headers}
            headers.extend(header for header in _HEADERS if header[0] not in own)
            name = logs.current_request_id()
            if name is not None:
                headers.append((b"x-request-id", name.encode()))
            message = {**message, "headers": headers}
        await self.send(message)


async def _respond(response: Response, scope: Scope, receive: Receive, answer: _Answer) -> None:
    if answer.started:
        raise BrokenResponseError("a response failed half-way") from None
    await response(scope, receive, answer)


def _closing(response: Response) -> Response:
    # The body was not read, so the connection cannot be used for another request.
    response.headers["Connection"] = "close"
    return response


def _template(scope: Scope) -> str:
    route: Callable[..., object] | None = scope.get("route")
    return getattr(route, "path", "(no such path)")


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((bytes(value) for name, value in scope["headers"] if name == wanted), b"")
