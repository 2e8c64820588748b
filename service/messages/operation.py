"""Base classes of all messages."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Progress = TypeVar("Progress")


class Struct:
    """Base of the parts of a message; parsing requires every field and allows no other.

    Subclasses are frozen dataclasses whose fields are given by name.
    """

    #: Read by pydantic in ``wire``.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Operation(Generic[Request, Answer, Progress]):
    """An operation of a compute process: its name, and the types of its messages."""

    name: str
    request: type[Request]
    answer: type[Answer]
    #: One type, or a union of several.
    progress: type[Progress] | UnionType
