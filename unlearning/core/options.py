"""Options and parameters: plain JSON values to a frozen dataclass, and its JSON schema."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from unlearning.errors import WrongOptions

T = TypeVar("T")


def parse(kind: type[T], values: Mapping[str, Any] | T) -> T:
    """Return ``values`` as a ``kind``, checked against its ``annotated_types`` constraints.

    Raise ``WrongOptions`` that names the field and its allowed values.
    """
    if isinstance(values, kind):
        values = dataclasses.asdict(values)  # type: ignore[call-overload]
    assert isinstance(values, Mapping)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise WrongOptions(
            f"there is no option {', '.join(unknown)}; there are: {', '.join(sorted(known))}"
        )
    try:
        return pydantic.TypeAdapter(kind).validate_python(dict(values))
    except pydantic.ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors()
        )
        raise WrongOptions(said) from None


def schema(kind: type[Any]) -> dict[str, Any]:
    """Return the JSON schema of an options dataclass, described by ``#:`` comments above fields."""
    return copy.deepcopy(_schema(kind))  # type: ignore[arg-type]  # a class is hashable


@functools.cache
def _schema(kind: type[Any]) -> dict[str, Any]:
    # Asked for with every plug-in; deriving it and reading the source take milliseconds.
    made = pydantic.TypeAdapter(kind).json_schema()
    properties = made.get("properties", {})
    for name, said in _descriptions(kind).items():
        if name in properties:
            properties[name].setdefault("description", said)
    return made


def _descriptions(kind: type[Any]) -> dict[str, str]:
    """Return field → the comment above it, of the class and its base classes."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _comments(_source(base))
    return found


def _source(kind: type[Any]) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""  # installed without its source: the schema has no descriptions


def _comments(source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    said: list[str] = []
    for line in map(str.strip, source.splitlines()):
        if line.startswith("#:"):
            said.append(line.removeprefix("#:").strip())
            continue
        name, colon, _ = line.partition(":")
        if said and colon and name.isidentifier():
            found[name] = " ".join(said)
        said = []
    return found
