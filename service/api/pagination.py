"""Lists in pages: an opaque cursor names the row after which the next page begins."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from service.errors import Unprocessable

MAX_PAGE = 200
DEFAULT_PAGE = 50

Item = TypeVar("Item")
Row = TypeVar("Row")
Key = TypeVar("Key", int, str)


class BadCursor(Unprocessable):
    """The cursor was not issued by this service for this list."""

    code = "bad-cursor"


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(
        None, description="pass it as `cursor` for the next page; null on the last one"
    )


@dataclass(frozen=True)
class Paging:
    """The requested page."""

    limit: int
    cursor: str | None

    @property
    def fetch(self) -> int:
        """Return the number of rows to read: one extra row shows that there is a next page."""
        return self.limit + 1

    def after(self, kind: type[Key]) -> Key | None:
        """Return the key of the previous page's last row, of the type that orders the list."""
        return None if self.cursor is None else _decode(self.cursor, kind)

    def page(self, rows: Sequence[Row], key: Callable[[Row], int | str]) -> dict[str, Any]:
        """Return the page of up to ``fetch`` rows that were read in the order of ``key``."""
        shown = list(rows[: self.limit])
        more = len(rows) > self.limit
        return {"items": shown, "next_cursor": encode(key(shown[-1])) if more else None}


def _paging(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="rows per page")] = DEFAULT_PAGE,
    cursor: Annotated[
        str | None, Query(max_length=256, description="`next_cursor` of the page before")
    ] = None,
) -> Paging:
    return Paging(limit, cursor)


#: Parameter type of a list endpoint: ``paging: pagination.Asked``.
Asked = Annotated[Paging, Depends(_paging)]


def encode(key: int | str) -> str:
    """Return the cursor after the row with this key."""
    return base64.urlsafe_b64encode(json.dumps([key]).encode()).decode().rstrip("=")


def _decode(cursor: str, kind: type[Key]) -> Key:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        decoded = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        decoded = None
    key = decoded[0] if isinstance(decoded, list) and len(decoded) == 1 else None
    if type(key) is not kind or not _storable(key):
        raise BadCursor("this cursor is not one of this list; leave it out to begin at the start")
    return key


def _storable(key: int | str) -> bool:
    if isinstance(key, int):
        return abs(key) < 2**63
    return "\0" not in key and key.isprintable()
