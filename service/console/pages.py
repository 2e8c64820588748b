"""Pages: templates, headers, and errors as pages that say what to do next."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.api import problems, repeats
from service.console import following, sessions, words
from service.console.sessions import SignInNeeded, Visitor
from service.errors import NotFound, ServiceError
from service.ledger.database import db

_HERE = Path(__file__).parent

#: Nothing but our own files is loaded, nothing inline is run, no other site shows the page.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: The parts of the console: what a link says, where it leads, the scope that it needs.
PARTS = (
    ("Requests", "/requests", "requests:read"),
    ("New request", "/requests/new", "requests:write"),
    ("Models", "/models", "models:read"),
    ("Datasets", "/datasets", "models:read"),
    ("Operations", "/operations", "metrics:read"),
    ("Webhooks", "/webhooks", "webhooks:write"),
    ("Keys", "/keys", "admin"),
    ("Audit chain", "/audit", "audit:read"),
)


@dataclass(frozen=True)
class Link:
    """A link of the menu."""

    words: str
    path: str
    here: bool


@dataclass(frozen=True)
class Asset:
    """A file that pages load, named by its contents so that browsers may keep it."""

    body: bytes
    media_type: str
    digest: str


_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(body, _TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:16])


#: Our own static files, by name.
ASSETS: Mapping[str, Asset] = {
    path.name: _asset(path) for path in sorted((_HERE / "static").iterdir())
}


def _static(name: str) -> str:
    return f"/static/{name}?v={ASSETS[name].digest}"


def _link(path: str, **parameters: Any) -> str:
    """Return a path with those parameters that have a value."""
    given = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_templates.filters.update(
    moment=words.moment,
    day=words.day,
    number=words.number,
    figure=words.figure,
    size=words.size,
    plain=words.plain,
    span=words.span,
    computing=words.computing,
    stored=words.stored,
)
_templates.globals.update(
    static=_static,
    link=_link,
    badge=words.badge,
    many=words.many,
    ago=words.ago,
    days_left=words.days_left,
)


def render(
    template: str, visitor: Visitor | None, *, path: str = "", status: int = 200, **shown: Any
) -> Response:
    """Return a page; ``path`` is the part of the console that it belongs to."""
    content = _templates.get_template(template).render(
        visitor=visitor, menu=_menu(visitor, path), now=db.now(), **shown
    )
    return HTMLResponse(following.mark(content), status, {"Content-Security-Policy": POLICY})


def prepare() -> None:
    """Compile the templates, so that no visitor waits for it."""
    for name in _templates.list_templates():
        _templates.get_template(name)


def text(template: str, **shown: Any) -> str:
    """Return what a template makes of ``shown`` alone: no visitor, no menu, no present moment."""
    return _templates.get_template(template).render(**shown)


def go(path: str, **parameters: Any) -> Response:
    """Return a redirect after a form, so that reloading the page does not send it again."""
    return RedirectResponse(_link(path, **parameters), 303)


def home(visitor: Visitor) -> str:
    """Return the first part of the console that the visitor's key may see."""
    return next((path for _, path, scope in PARTS if visitor.may(scope)), "/nothing")


def _menu(visitor: Visitor | None, path: str) -> list[Link]:
    if visitor is None:
        return []
    return [Link(name, at, at == path) for name, at, scope in PARTS if visitor.may(scope)]


class PageRoute(APIRoute):
    """A route whose errors are pages, and whose endpoint is called once more after a deadlock."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, following.timed(repeats.once(endpoint)), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, with errors shown to a person."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except SignInNeeded as error:
                return _sign_in(request, error)
            except RequestValidationError:
                missing = NotFound("there is no such page; the address may be mistyped")
                return _refused(request, missing)
            except Exception as error:  # every error is a page here
                return _refused(request, problems.of(error))

        return answer


def router() -> APIRouter:
    """Return a router of pages, which the API's own document does not list."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def _sign_in(request: Request, error: SignInNeeded) -> Response:
    if request.method != "GET":
        return _refused(request, error)
    return RedirectResponse(_link("/sign-in", next=request.url.path), 303)


def _refused(request: Request, error: ServiceError) -> Response:
    visitor = request.scope.get(sessions.FOUND)
    response = render("error.html", visitor, status=error.status, error=error)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response
