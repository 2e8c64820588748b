"""Options and parameters: from plain JSON values to a frozen dataclass, and its JSON schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from unlearning.errors import WrongOptions

T = TypeVar("T")


def parse(kind: type[T], values: Mapping[str, Any] | T) -> T:
    """``values`` as a ``kind``, checked against its ``annotated_types`` constraints.

    ``WrongOptions`` names the field and what it may be.
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
    """JSON schema of an options dataclass."""
    return pydantic.TypeAdapter(kind).json_schema()
