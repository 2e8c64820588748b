"""Messages as lines of JSON: the only place where they are written and read.

A worker sends ``{"operation": NAME, "request": {...}}``; the compute process answers with any
number of ``{"progress": {...}}`` and then ``{"answer": {...}}`` or ``{"failure": {...}}``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from service.messages.catalogue import CATALOGUE
from service.messages.certify import CERTIFY
from service.messages.describe import DESCRIBE
from service.messages.encode import ENCODE
from service.messages.encoder import ENCODER
from service.messages.failures import Failure
from service.messages.margins import MARGINS
from service.messages.measure import MEASURE
from service.messages.operation import Answer, Operation, Progress, Request
from service.messages.prepare import PREPARE
from service.messages.references import REFERENCES
from service.messages.train import TRAIN
from service.messages.unlearn import UNLEARN

_ALL: list[Operation[Any, Any, Any]] = [
    CATALOGUE,
    CERTIFY,
    DESCRIBE,
    ENCODE,
    ENCODER,
    MARGINS,
    MEASURE,
    PREPARE,
    REFERENCES,
    TRAIN,
    UNLEARN,
]
OPERATIONS: dict[str, Operation[Any, Any, Any]] = {one.name: one for one in _ALL}

#: Largest number of faults that an error about an invalid line lists.
_MOST_FAULTS = 5


class BadMessage(ValueError):
    """The line is not a valid message; its content, which may be personal, is not quoted."""


@dataclass(frozen=True)
class Answered(Generic[Answer]):
    """The last reply: the answer."""

    answer: Answer


@dataclass(frozen=True)
class Progressed(Generic[Progress]):
    """A reply before the last: progress."""

    progress: Progress


def write_request(operation: Operation[Request, Answer, Progress], request: Request) -> str:
    """Return the line, without its end, that asks for ``operation``."""
    return _line({"operation": operation.name, "request": _plain(operation.request, request)})


def read_request(line: str) -> tuple[Operation[Any, Any, Any], Any]:
    """Return the operation that a line requests, and its request; raise ``BadMessage``."""
    message = _object(line, {"operation", "request"})
    operation = OPERATIONS.get(str(message["operation"]))
    if operation is None:
        raise BadMessage("it asks for an operation that does not exist")
    return operation, _read(operation.request, message["request"], f"request of {operation.name}")


def write_progress(operation: Operation[Request, Answer, Progress], progress: Progress) -> str:
    """Return the line that reports progress of ``operation``."""
    return _line({"progress": _plain(operation.progress, progress)})


def write_answer(operation: Operation[Request, Answer, Progress], answer: Answer) -> str:
    """Return the line of an answer.

    ``TypeError``: a value has another type than declared; ``ValueError``: a number cannot be
    expressed in JSON.
    """
    return _line({"answer": _plain(operation.answer, answer)})


def write_failure(failure: Failure) -> str:
    """Return the line of a failure."""
    return _line({"failure": _plain(Failure, failure)})


def read_reply(
    operation: Operation[Request, Answer, Progress], line: str
) -> Answered[Answer] | Progressed[Progress] | Failure:
    """Return a compute process' reply about ``operation``; raise ``BadMessage`` if it is none."""
    message = _object(line)
    [(kind, content)] = message.items() if len(message) == 1 else [("", None)]
    if kind == "progress":
        progress: Progress = _read(operation.progress, content, f"progress of {operation.name}")
        return Progressed(progress)
    if kind == "answer":
        answer: Answer = _read(operation.answer, content, f"answer of {operation.name}")
        return Answered(answer)
    if kind == "failure":
        failure: Failure = _read(Failure, content, "failure")
        return failure
    raise BadMessage("it is neither progress nor an answer nor a failure")


def _object(line: str, keys: set[str] | None = None) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise BadMessage("it is not JSON") from error
    if not isinstance(message, dict) or (keys is not None and set(message) != keys):
        raise BadMessage("it does not have the fields of a message")
    return message


def _line(message: dict[str, Any]) -> str:
    return json.dumps(message, allow_nan=False)


def _plain(kind: Any, value: Any) -> Any:
    try:
        return _adapter(kind).dump_python(value, warnings="error")
    except PydanticSerializationError:  # its message quotes the value
        raise TypeError(f"what was to be sent does not have the types of {kind}") from None


def _read(kind: Any, value: Any, what: str) -> Any:
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False, include_url=False)
        found = found[:_MOST_FAULTS]
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['type']}" for one in found)
        raise BadMessage(f"{what}: {problems}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
