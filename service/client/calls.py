"""Calls of the service as values: what is sent, what comes back, and whether it may be repeated."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

T = TypeVar("T")

#: Methods of which a second call with the same content leaves what the first one did. PATCH sets
#: the fields that it names.
REPEATABLE = frozenset({"GET", "PUT", "PATCH", "DELETE"})


class Unset(Enum):
    """Stands for an argument that was left out, where None has a meaning of its own."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call. Bodies, headers and answers stay out of its ``repr``: they may name a person."""

    method: str
    #: As the document has it: what stands in its places is in no error.
    path: str
    #: What the answer is validated as: a shape, a union of shapes, or one of ``answers``' kinds.
    answer: Any = field(repr=False)
    places: Mapping[str, str | int] = field(default_factory=dict, repr=False)
    query: Mapping[str, Any] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    #: A body that is not JSON, with its media type.
    content: bytes | Path | None = field(default=None, repr=False)
    media_type: str = "application/json"
    idempotency_key: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Return the path with values in its places, each one segment of it.

        Raise ``ValueError`` for a value that is none, which would lead to another path.
        """
        values = {name: _segment(name, str(one)) for name, one in self.places.items()}
        return self.path.format(**values)

    @property
    def is_repeatable(self) -> bool:
        """Return whether sending it twice does the same as sending it once."""
        return self.method in REPEATABLE or self.idempotency_key is not None

    @property
    def payload(self) -> bytes | Path | None:
        """Return the bytes to send, or the file that holds them."""
        if self.body is None:
            return self.content
        given = {name: plain(value) for name, value in self.body.items() if value is not UNSET}
        return _encoded(json.dumps(given, ensure_ascii=False, separators=(",", ":")))

    @property
    def parameters(self) -> dict[str, str]:
        """Return the query as text, without what was left out."""
        return {
            name: as_text(value)
            for name, value in self.query.items()
            if value is not UNSET and value is not None
        }

    def with_query(self, **values: Any) -> Call[T]:
        """Return the call with these query parameters in place of its own."""
        return replace(self, query={**self.query, **values})


def _segment(name: str, value: str) -> str:
    if value in ("", ".", ".."):  # a URL is read without them, whether quoted or not (RFC 3986)
        raise ValueError(f"give {name} as the service names it; it cannot be empty, '.' or '..'")
    return quote(value, safe="")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # which holds the whole text
        pass
    raise ValueError("a text of the call has half of a surrogate pair; send whole characters")


def key(given: str | None) -> str:
    """Return the caller's idempotency key, or a new one that repeats of this call share.

    Raise ``ValueError`` for one that a header cannot hold; it is not quoted.
    """
    if given is None:
        return uuid.uuid4().hex
    if not (given.isascii() and given.isprintable() and given.strip() == given != ""):
        raise ValueError("an idempotency key has printable ASCII characters, no space at its ends")
    return given


def plain(value: Any) -> Any:
    """Return a value as JSON has it; fields of shapes that were left out stay out."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items() if one is not UNSET}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(one) for one in value]
    return value


def as_text(value: Any) -> str:
    """Return a query parameter's value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return moment(value) if isinstance(value, datetime) else str(value)


def moment(value: datetime) -> str:
    """Return a moment in RFC 3339; raise ``ValueError`` without a time zone."""
    if value.tzinfo is None:
        raise ValueError("give a moment with its time zone, such as datetime.now(timezone.utc)")
    return value.isoformat()
