"""What goes wrong: problems that the service answers with, and answers that never came.

No text of an error holds what was sent: a body may name a person, and errors are logged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import httpx

PROBLEM = "application/problem+json"


class ClientError(Exception):
    """The base of every error of this client."""


class Unreachable(ClientError):
    """The service could not be reached, or its answer did not arrive."""


class UnexpectedAnswer(ClientError):
    """The service answered in a form that this version of the client does not know."""


class DigestMismatch(ClientError):
    """Downloaded bytes are not those that the service names; nothing was replaced."""


class NothingLive(ClientError):
    """The model has no production version; a copy downloaded before must not be served any more."""


class StillOpen(ClientError):
    """What was waited for has not ended in time; ``last`` is its state when it was last read."""

    def __init__(self, message: str, last: Any) -> None:
        super().__init__(message)
        self.last = last


class EndedOtherwise(ClientError):
    """What was waited for ended, but not as it should; ``last`` is its state."""

    def __init__(self, message: str, last: Any) -> None:
        super().__init__(message)
        self.last = last


@dataclass(frozen=True)
class Field:
    """What is wrong with one field of a call."""

    field: str
    reason: str


class ApiError(ClientError):
    """A problem (RFC 9457) that the service answered with; its class follows from the status."""

    statuses: ClassVar[frozenset[int]] = frozenset()

    def __init__(self, status: int, members: Mapping[str, Any], retry_after: float | None) -> None:
        self.status = status
        self.type = str(members.get("type") or "about:blank")
        self.code = str(members.get("code") or "unknown")
        self.title = str(members.get("title") or "")
        #: What happened and what to do next.
        self.detail = str(members.get("detail") or "")
        #: What to do next; empty if the problem does not say so apart from its detail.
        self.next = str(members.get("next") or self.detail.partition("; ")[2])
        self.fields: Sequence[Field] = _fields(members.get("fields"))
        #: Names the log line of an internal error.
        self.reference: str | None = members.get("reference")
        #: Every member, also those that only some problems have.
        self.members = dict(members)
        self.retry_after_seconds = retry_after
        super().__init__(self._text())

    def _text(self) -> str:
        said = [f"{self.status} {self.code}: {self.detail or self.title}"]
        said += [f"{one.field}: {one.reason}" for one in self.fields]
        if self.reference:
            said.append(f"reference {self.reference}")
        return "; ".join(said)


class BadRequest(ApiError):
    """The call could not be read."""

    statuses = frozenset({400, 405, 415})


class Unauthorized(ApiError):
    """There is no API key, or it is unknown, expired or revoked."""

    statuses = frozenset({401})


class Forbidden(ApiError):
    """The API key lacks the scope."""

    statuses = frozenset({403})


class NotFound(ApiError):
    """There is no such thing."""

    statuses = frozenset({404})


class Conflict(ApiError):
    """The present state does not allow it."""

    statuses = frozenset({409, 412})


class Withdrawn(ApiError):
    """It was withdrawn or destroyed, and is not served any more."""

    statuses = frozenset({410})


class TooLarge(ApiError):
    """The body, or a list in it, is over its limit."""

    statuses = frozenset({413})


class Invalid(ApiError):
    """The call was read and makes no sense; ``fields`` says where."""

    statuses = frozenset({416, 422})


class TooManyRequests(ApiError):
    """A rate or a queue is at its limit."""

    statuses = frozenset({429})


class InternalError(ApiError):
    """Something went wrong in the service; ``reference`` names its log line."""

    statuses = frozenset({500})


class Unavailable(ApiError):
    """A part that is needed does not answer now."""

    statuses = frozenset({502, 503, 504})


_BY_STATUS = {status: kind for kind in ApiError.__subclasses__() for status in kind.statuses}


def of(response: httpx.Response) -> ApiError:
    """Return the error for an answer of 400 or above, whose body has been read."""
    members: Any = None
    if response.headers.get("content-type", "").partition(";")[0].strip() == PROBLEM:
        try:
            members = json.loads(response.content)
        except ValueError:
            members = None
    if not isinstance(members, dict):  # of a proxy before the service; its text is not ours
        members = {"detail": "the answer is not one of the service; look at what lies between"}
    kind = _BY_STATUS.get(response.status_code, ApiError)
    return kind(response.status_code, members, _retry_after(response))


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of ``Retry-After``, which is a number or a date (RFC 9110, 10.2.3)."""
    said = response.headers.get("retry-after", "").strip()
    if not said:
        return None
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        until = parsedate_to_datetime(said)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _fields(given: Any) -> Sequence[Field]:
    if not isinstance(given, list):
        return ()
    return tuple(
        Field(str(one.get("field")), str(one.get("reason")))
        for one in given
        if isinstance(one, dict)
    )
