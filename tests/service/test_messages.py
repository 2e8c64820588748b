"""Messages between a worker and its compute process: written and read whole, or refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from service.messages import wire
from service.messages.catalogue import CATALOGUE, Announcement, Answer
from service.messages.failures import Failure, FailureKind
from service.messages.operation import Operation

ROOT = Path(__file__).parents[2]
MYPY = (sys.executable, "-m", "mypy", "--config-file=", "--strict")
OPERATIONS = [pytest.param(one, id=name) for name, one in wire.OPERATIONS.items()]


def example(kind: Any) -> Any:
    """A value of a type of a message's field, with something in every part of it."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(
            **{field.name: example(hints[field.name]) for field in dataclasses.fields(kind)}
        )
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return example(next(one for one in arguments if one is not type(None)))
    if origin is Literal:
        return arguments[0]
    if origin is list:
        return [example(arguments[0])]
    if origin is tuple:
        return tuple(example(one) for one in arguments)
    if origin is dict:
        return {example(arguments[0]): example(arguments[1])}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return next(iter(kind))
    found = {str: "a", int: 3, float: 0.25, bool: True, Any: {"any": [1, None, "b"]}}
    return found[kind]


def progresses(operation: Operation[Any, Any, Any]) -> list[Any]:
    kinds = get_args(operation.progress) or (operation.progress,)
    return [example(kind) for kind in kinds]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_messages_come_back_as_they_were_sent(operation: Operation[Any, Any, Any]) -> None:
    request, answer = example(operation.request), example(operation.answer)
    assert wire.read_request(wire.write_request(operation, request)) == (operation, request)
    assert wire.read_reply(operation, wire.write_answer(operation, answer)) == wire.Answered(answer)
    for progress in progresses(operation):
        line = wire.write_progress(operation, progress)
        assert "\n" not in line
        assert wire.read_reply(operation, line) == wire.Progressed(progress)


@pytest.mark.parametrize("kind", FailureKind)
def test_failures_come_back_as_they_were_sent(kind: FailureKind) -> None:
    failure = Failure(kind=kind, name="Name", message="what to do")
    assert wire.read_reply(CATALOGUE, wire.write_failure(failure)) == failure


@pytest.mark.parametrize("operation", OPERATIONS)
def test_request_that_lacks_a_field_or_has_another_is_refused(
    operation: Operation[Any, Any, Any],
) -> None:
    message = json.loads(wire.write_request(operation, example(operation.request)))
    for name in message["request"]:
        less = {key: value for key, value in message["request"].items() if key != name}
        with pytest.raises(wire.BadMessage, match=rf"request of {operation.name}: {name}: missing"):
            wire.read_request(json.dumps(message | {"request": less}))
    more = message["request"] | {"surplus": 1}
    with pytest.raises(wire.BadMessage, match="surplus"):
        wire.read_request(json.dumps(message | {"request": more}))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "{}",
        "a library's print",
        '{"answer": {}}',
        '{"answer": {"announcements": []}, "progress": {"fraction": 0.5}}',
        '{"progress": {"fraction": "half"}}',
        '{"failure": {"kind": "Elsewhere", "name": "a", "message": "b"}}',
        '{"failure": {"kind": "NotKnown", "message": "b"}}',
    ],
)
def test_damaged_reply_is_refused(line: str) -> None:
    with pytest.raises(wire.BadMessage):
        wire.read_reply(CATALOGUE, line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        '{"operation": "catalogue"}',
        '{"operation": "os", "request": {}}',
        '{"operation": ["catalogue"], "request": {}}',
        '{"operation": "catalogue", "request": {}, "more": 1}',
    ],
)
def test_damaged_request_is_refused(line: str) -> None:
    with pytest.raises(wire.BadMessage):
        wire.read_request(line)


def test_what_a_damaged_message_holds_is_not_told() -> None:
    line = json.dumps({"answer": {"announcements": [{"kind": "alice@example.org"}]}})
    with pytest.raises(wire.BadMessage) as refused:
        wire.read_reply(CATALOGUE, line)
    assert "alice" not in str(refused.value)


def test_a_value_of_another_type_is_not_sent() -> None:
    made = Answer(announcements=["alice@example.org"], refused=[])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="Answer") as refused:
        wire.write_answer(CATALOGUE, made)
    assert "alice" not in str(refused.value)


def test_a_number_that_json_has_no_word_for_is_not_sent() -> None:
    made = Announcement("method", "a", "", {"default": float("inf")}, "1")
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.write_answer(CATALOGUE, Answer(announcements=[made], refused=[]))


@pytest.fixture(scope="module")
def types_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("types")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Fraction(fraction=0.5)", ""),
        ("Fraction()", "call-arg"),
        ("Fraction(fraction=0.5, more=1)", "call-arg"),
        ("Fraction(fraction='half')", "arg-type"),
    ],
)
def test_a_missing_field_is_a_type_error(
    tmp_path: Path, types_cache: Path, line: str, found: str
) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(f"from service.messages.parts import Fraction\n\n{line}\n")
    checked = subprocess.run(
        [*MYPY, f"--cache-dir={types_cache}", str(snippet)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, f"[{found}]" in checked.stdout) == (bool(found), bool(found))
