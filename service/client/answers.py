"""Answers of the service as typed values."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from . import errors
from .calls import Call

T = TypeVar("T")
Item = TypeVar("Item")


Known = TypeVar("Known", bound=StrEnum)
#: A word of a list that later releases may lengthen: those that this one does not know stay text.
Word = Annotated[Known | str, Field(union_mode="left_to_right")]


class Answer(BaseModel):
    """What the service answers with. Fields of later releases are ignored."""

    # A value that does not fit is not quoted: an answer may hold a client's own words.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Given(BaseModel):
    """A part of a body. Fields that are left out are not sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Page(Answer, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    #: Pass it as ``cursor`` for the next page; None on the last one.
    next_cursor: str | None = None


class Lines:
    """Marks an answer of JSON values, one a line."""


class Text:
    """Marks an answer that is plain text."""


class Nothing:
    """Marks an answer without a body."""


def read(call: Call[T], response: httpx.Response) -> T:
    """Return the answer as what the call says; raise ``UnexpectedAnswer``."""
    try:
        return _read(call.answer, response)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        reason = f"{where}: {first['msg']}"
    except ValueError:
        reason = "it is not JSON"
    raise errors.UnexpectedAnswer(
        f"the answer to {call.method} {call.path} is not understood ({reason}); install the client "
        "of the service's version"
    )


def expected(response: httpx.Response) -> httpx.Response:
    """Return an answer below 400; raise ``UnexpectedAnswer`` for a redirect."""
    if 300 <= response.status_code < 400 and response.status_code != 304:
        raise errors.UnexpectedAnswer(
            f"the service answered {response.status_code}, a redirect, which is not followed with "
            "an API key; correct the URL"
        )
    return response


def _read(kind: Any, response: httpx.Response) -> Any:
    if kind is Nothing:
        return None
    if kind is Text:
        return response.text
    if kind is Lines:
        # Not splitlines(), which would also divide a value at a U+2028 in it.
        return [json.loads(line) for line in response.content.split(b"\n") if line]
    return _adapter(kind).validate_json(response.content)


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
