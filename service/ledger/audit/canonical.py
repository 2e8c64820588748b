"""Canonical JSON (RFC 8785): the one byte form that is hashed and signed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import rfc8785

#: Larger integers have no exact form in RFC 8785 and are written as strings of digits.
LARGEST_INTEGER = 2**53 - 1


def encode(value: Any) -> bytes:
    """Return the canonical bytes of a value of JSON types; raise ``ValueError`` if it has none."""
    try:
        if _is_common(value):
            return _common.encode(value).encode()
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise ValueError(f"this has no canonical JSON form: {error}") from error


#: Writes values of ``_is_common`` as RFC 8785 does, ten times as fast.
_common = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _is_common(value: Any) -> bool:
    """Return whether Python's JSON and RFC 8785 write everything in a value alike.

    They differ in floats, in large integers and in the order of names beyond ASCII.
    """
    kind = type(value)
    if kind is str:
        return not _SURROGATE.search(value)
    if kind is int:
        return bool(-LARGEST_INTEGER <= value <= LARGEST_INTEGER)
    if kind is dict:
        return all(
            type(name) is str and name.isascii() and _is_common(item)
            for name, item in value.items()
        )
    if kind is list or kind is tuple:
        return all(map(_is_common, value))
    return value is None or kind is bool


_SURROGATE = re.compile("[\ud800-\udfff]")


def digest(value: Any) -> str:
    """Return SHA-256 of the canonical bytes, 64 hex digits."""
    return hashlib.sha256(encode(value)).hexdigest()


def decode(text: bytes) -> Any:
    """Parse UTF-8 JSON without repeated names or NaN, so that ``encode`` can give it back."""
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_constant=_refuse_constant,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def plain(value: Any) -> Any:
    """Return ``value`` with everything that canonical JSON cannot hold converted to text.

    Moments become RFC 3339 text; integers beyond 2^53 and non-finite numbers become strings. What
    is stored, hashed and reported is then identical.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= LARGEST_INTEGER else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no place in an audit line or report")


def moment(value: datetime) -> str:
    """Return RFC 3339 in UTC with microseconds, such as ``2026-01-02T03:04:05.000006Z``."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _integer(digits: str) -> int | float:
    # A large float such as 1e20 is written without exponent and must be read as a float again.
    return int(digits) if len(digits) < 16 else _shortest(float(digits))


def _shortest(number: float) -> int | float:
    return int(number) if abs(number) <= LARGEST_INTEGER else number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return made


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
