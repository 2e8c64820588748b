"""The canonical form is that of RFC 8785 whichever way it is written."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as some

from service.ledger.audit import canonical, hash_chain

_TEXT = some.text(some.characters(codec="utf-8"))
_VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-canonical.LARGEST_INTEGER, canonical.LARGEST_INTEGER)
    | some.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.seconds
@given(_VALUES)
def test_every_value_has_the_bytes_of_rfc_8785(value: Any) -> None:
    assert canonical.encode(value) == rfc8785.dumps(value)


def test_every_single_character_has_the_bytes_of_rfc_8785() -> None:
    characters = [chr(one) for one in range(0x3000) if not 0xD800 <= one < 0xE000]
    assert canonical.encode(characters) == rfc8785.dumps(characters)


@pytest.mark.parametrize("value", [2.0**53 + 2, -(2.0**53) - 2, 9_999_999_999_999_998.0, 1e20])
def test_a_large_float_is_read_as_the_float_that_was_written(value: float) -> None:
    found = canonical.decode(canonical.encode(value))
    assert found == value
    assert isinstance(found, float)


@pytest.mark.parametrize("value", [2**53, {"a": [-(2**53)]}, "\ud800", {1: 2}, {"a": {2}}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="canonical"):
        canonical.encode(value)


@pytest.mark.seconds
@given(
    actor=_TEXT,
    action=_TEXT,
    subject=_TEXT,
    data=some.dictionaries(_TEXT, _VALUES, max_size=4),
    seq=some.integers(1, canonical.LARGEST_INTEGER),
)
def test_a_line_prepared_before_it_has_a_place_gets_the_hash_of_the_whole_line(
    actor: str, action: str, subject: str, data: dict[str, Any], seq: int
) -> None:
    place = {
        "seq": seq,
        "at": "2026-01-02T03:04:05.000006Z",
        "previous_hash": hashlib.sha256(actor.encode()).hexdigest(),
    }
    said = {"actor": actor, "action": action, "subject": subject, "data": data}
    prepared = hash_chain.Prepared.of(actor=actor, action=action, subject=subject, data=data)
    assert prepared.hash_at(**place) == hash_chain.line_hash(said | place)
