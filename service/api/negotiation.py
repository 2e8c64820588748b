"""Which form of a document is answered, by the Accept header with its weights.

RFC 9110, section 12.5.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from service.errors import ServiceError

JSON = "application/json"
HTML = "text/html"
DSSE = "application/vnd.dsse.envelope.v1+json"

#: Header of every answer whose form depends on what was asked for.
VARY = {"Vary": "Accept"}

#: Longest Accept header that is read; browsers send about 150 characters.
_LONGEST = 2_000
_RANGE = re.compile(r"([a-z0-9!#$&^_.+-]+|\*)/([a-z0-9!#$&^_.+-]+|\*)", re.ASCII)
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)


class NotAcceptable(ServiceError):
    """No form of the document is one that the client accepts."""

    status: ClassVar[int] = 406
    code: ClassVar[str] = "not-acceptable"
    title: ClassVar[str] = "There is no such form of this document"


@dataclass(frozen=True)
class _Range:
    """One entry of an Accept header."""

    kind: str
    subtype: str
    weight: float

    def precision(self, media_type: str) -> int:
        """Return how precisely this names a media type; 0 if it does not."""
        kind, _, subtype = media_type.partition("/")
        if (self.kind, self.subtype) == ("*", "*"):
            return 1
        if self.kind != kind:
            return 0
        return 2 if self.subtype == "*" else 3 * (self.subtype == subtype)


@dataclass(frozen=True)
class Page:
    """A page in one file, and the content security policy that it needs."""

    html: str
    policy: str


class Pages(Protocol):
    """Makes pages of signed documents, from their bytes alone (``service.console.documents``)."""

    def report(self, content: bytes) -> Page:
        """Return the page of a version's report."""
        ...

    def receipt(self, content: bytes) -> Page:
        """Return the page of a deletion request's receipt."""
        ...


def described(what: str, *others: str) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a document that is answered as JSON, page or other forms."""
    forms = {one: {"schema": {"type": "string"}} for one in (HTML, *others)}
    return {200: {"description": what, "content": forms, "headers": _VARIES}}


_VARIES = {"Vary": {"schema": {"type": "string"}, "description": "Accept"}}


def answer(form: str, content: bytes, page: Callable[[bytes], Page]) -> Response:
    """Return signed bytes as they are, or as the page that ``page`` makes of them."""
    if form != HTML:
        return Response(content, media_type=form, headers=VARY)
    shown = show(page(content))
    shown.headers.update(VARY)
    return shown


def show(page: Page) -> Response:
    """Return the response of a page in one file."""
    return HTMLResponse(page.html, headers={"Content-Security-Policy": page.policy})


def choose(request: Request, offered: Sequence[str]) -> str:
    """Return the offered media type that the client prefers; of equal ones the first.

    Without an Accept header that is the first. Raise ``NotAcceptable`` if it accepts none.
    """
    accept = ",".join(request.headers.getlist("accept"))
    if not accept.strip():
        return offered[0]
    ranges = list(_ranges(accept[:_LONGEST]))
    best = max(offered, key=lambda one: _weight(ranges, one))
    if _weight(ranges, best) == 0:
        raise NotAcceptable(f"ask for one of these in the Accept header: {', '.join(offered)}")
    return best


def _weight(ranges: Sequence[_Range], media_type: str) -> float:
    """Return the weight of the most precise range that names the media type."""
    fitting = [(one.precision(media_type), one.weight) for one in ranges]
    precise = max((precision for precision, _ in fitting), default=0)
    if precise == 0:
        return 0.0
    return max(weight for precision, weight in fitting if precision == precise)


def _ranges(accept: str) -> Iterator[_Range]:
    """Yield the entries that can be read; one with parameters but a weight names nothing here."""
    for entry in accept.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        found = _RANGE.fullmatch(name)
        weight = 1.0
        for parameter in parameters:
            key, _, value = (part.strip() for part in parameter.partition("="))
            if key == "q":
                weight = float(value) if _WEIGHT.fullmatch(value) else 1.0
            elif key != "charset":
                found = None
        if found is not None:
            yield _Range(found[1], found[2], weight)
