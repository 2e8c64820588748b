"""What every message has in common."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Progress = TypeVar("Progress")


class Struct:
    """Base of the parts of a message: read with every field that it has, and no other.

    Subclasses are frozen dataclasses whose fields are given by name.
    """

    #: Of pydantic, which reads it in ``wire``.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Operation(Generic[Request, Answer, Progress]):
    """Something that a compute process does: its name, and the types of what is said about it."""

    name: str
    request: type[Request]
    answer: type[Answer]
    #: One type, or a union of several.
    progress: type[Progress] | UnionType
