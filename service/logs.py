"""Log lines as text or as JSON, each with the request, the batch and the trace that it belongs to.

What a line belongs to is kept in a context variable, which threads of an endpoint inherit and other
threads begin without. No line quotes what a client sent.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from service import tracing

Style = Literal["text", "json"]

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"

#: Request ids that are taken over from a client. An address or a name with spaces is none.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

_about: ContextVar[Mapping[str, str]] = ContextVar("about")


@contextmanager
def about(**names: str) -> Iterator[None]:
    """Add names, such as ``request_id`` or ``batch``, to every line logged in the block."""
    token = _about.set({**_about.get({}), **names})
    try:
        yield
    finally:
        _about.reset(token)


def request_id(given: str) -> str:
    """Return the client's id of a request if it is usable as one, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def current_request_id() -> str | None:
    """Return the id of the HTTP request that is being answered; None outside of one."""
    return _about.get({}).get("request_id")


@dataclass(frozen=True)
class Origin:
    """The HTTP request that something comes from, for what another thread does with it."""

    request_id: str | None = None
    #: W3C trace context; None: it is not traced.
    traceparent: str | None = None

    @classmethod
    def here(cls) -> Origin:
        """Return the origin of what is done now."""
        return cls(current_request_id(), tracing.traceparent())

    def names(self) -> dict[str, str]:
        """Return the names that a line about it has."""
        trace_id = tracing.trace_id(self.traceparent)
        found = {"request_id": self.request_id, "trace_id": trace_id}
        return {name: value for name, value in found.items() if value is not None}


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the names that a line has: what it says itself, and what it belongs to."""
    here = Origin(traceparent=tracing.traceparent()).names()
    own: Mapping[str, object] = getattr(record, "fields", {})
    return {**here, **_about.get({}), **own}


class Text(logging.Formatter):
    """A line for people, followed by the names that the message does not say itself."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback below it."""
        known = {**fields(record), "batch": _about.get({}).get("batch")}
        own: Mapping[str, object] = getattr(record, "fields", {})
        if "batch" in own:
            del known["batch"]  # the message says it
        names = [f"{name}={known[name]}" for name in _NAMES if known.get(name) is not None]
        line = vars(record) | {"msg": " ".join([record.getMessage(), *names]), "args": None}
        return super().format(logging.makeLogRecord(line))


#: What a line for people names; the rest of what a JSON line has, its message says.
_NAMES = ("batch", "request_id", "trace_id")


class Json(logging.Formatter):
    """A JSON object a line: ``at`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, names."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def formatter(style: Style, text: str = TEXT) -> logging.Formatter:
    """Return the formatter of a style; ``text`` is the format of lines for people."""
    return Json() if style == "json" else Text(text)


class _Ours(logging.StreamHandler):  # type: ignore[type-arg]  # generic in stubs alone
    """The handler that ``configure`` adds, to be found again by a second call."""


def configure(style: Style, *names: str) -> None:
    """Write the lines of these loggers, from INFO on, to standard error in this style."""
    for name in names:
        logger = logging.getLogger(name)
        ours = [one for one in logger.handlers if isinstance(one, _Ours)]
        if not logger.handlers:
            ours = [_Ours()]
            logger.addHandler(ours[0])
            logger.setLevel(logging.INFO)
        for handler in ours:
            handler.setFormatter(formatter(style))


def restyle(style: Style, *names: str) -> None:
    """Write the lines of loggers that others have set up as JSON, if that is the style."""
    if style != "json":
        return
    for name in names:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter(style))
